"""The forecast's peak memory against what real trainings take: a fresh process each, by the stages' own functions.

    python benchmarks/forecast.py                  # all shapes: some minutes
    python benchmarks/forecast.py --models         # the table of four models and three GPU counts: nothing is run

Measured is the highest resident size (VmHWM of /proc/self/status) minus that after a training of a tiny model, so that
libraries do not count and weights do.
One thread, float32, two optimizer steps. Once every tensor is mapped by itself, so that nothing but tensors counts, and
once under the stages' settings (pipeline/stage/runtime.py), whose heap has gaps.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lockstep import machine
from pair_lengths import FIRST_WORD

STEPS = 2
TRAINING = {
    "learning_rate": 1.0e-4,
    "num_train_epochs": 1.0,
    "max_steps": STEPS,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "adam_beta2": 0.999,
    "bf16": False,
}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "quantise": None}
DPO, SIMPO = {"method": "dpo", "beta": 0.1}, {"method": "simpo", "beta": 2.5, "gamma": 0.3}
EPSILON = {"method": "epsilon_dpo", "beta": 0.1, "epsilon": 0.01}
TR_DPO = {"method": "tr_dpo", "beta": 0.1, "update": "soft", "alpha": 0.6, "sync_steps": 1}


@dataclass(frozen=True)
class Case:
    """A model and how it is trained; `method` None: SFT."""

    vocab: int
    layers: int
    hidden: int
    method: dict[str, Any] | None
    micro_batch: int
    accumulation: int = 1
    prompt: int = 128
    answer: int = 128
    family: str = "gemma2"
    gradient_checkpointing: bool = False
    lora: bool = False

    def config(self) -> Any:
        from transformers import Gemma2Config, LlamaConfig

        heads = max(self.hidden // 64, 2)
        sizes = {
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return Gemma2Config(**sizes, query_pre_attn_scalar=64) if self.family == "gemma2" else LlamaConfig(**sizes)


CASES = {
    "ε-DPO, many layers, few words": Case(2000, 16, 256, EPSILON, 8),
    "ε-DPO, a vocabulary of 32,000": Case(32_000, 6, 512, EPSILON, 4),
    "ε-DPO, the same in 4 micro-batches": Case(32_000, 6, 512, EPSILON, 1, 4),
    "ε-DPO, a vocabulary of 256,000": Case(256_000, 2, 256, EPSILON, 2, 2),
    "ε-DPO, a Llama": Case(32_000, 6, 512, EPSILON, 4, family="llama"),
    "ε-DPO, gradient checkpointing": Case(32_000, 12, 512, EPSILON, 4, gradient_checkpointing=True),
    "DPO, a LoRA": Case(32_000, 6, 512, DPO, 4, lora=True),
    "TR-DPO, three models": Case(32_000, 6, 512, TR_DPO, 2, 2),
    "SimPO, no reference": Case(32_000, 6, 512, SIMPO, 4),
    "SFT": Case(32_000, 6, 512, None, 4),
    "SFT, gradient checkpointing": Case(32_000, 12, 512, None, 4, gradient_checkpointing=True),
}


def forecast(case: Case) -> float:
    """MB of tensors."""
    import torch

    from epsilon_dpo.forecast.memory import unsharded
    from epsilon_dpo.forecast.simulation import How, Rows, Scored, alignment_step, sft_step
    from epsilon_dpo.forecast.trainings import references_of
    from epsilon_dpo.methods.registry import method_of
    from epsilon_dpo.training.loop.params import LoRA

    lora = LoRA(**LORA) if case.lora else None
    how = How(torch.float32, False, case.gradient_checkpointing, lora, case.accumulation > 1, "cpu")
    if case.method is None:
        rows = Rows(case.micro_batch, case.prompt + case.answer, case.micro_batch * case.answer)
        return unsharded(sft_step(case.config(), how, rows)).total / 1e6
    method: Any = method_of("x", case.method)
    scored = Scored(references_of(method, case.lora), 512, method.eps_c)
    rows = Rows(case.micro_batch, case.prompt + 2 * case.answer, 2 * case.micro_batch * case.answer, shared=True)
    return unsharded(alignment_step(case.config(), how, rows, scored)).total / 1e6


def measure(case: Case, apart: bool) -> dict[str, float]:
    """MB before the training and at its peak; called in a process of its own."""
    from epsilon_dpo.pipeline.stage.runtime import M_MMAP_THRESHOLD, set_up

    set_up(0, 1)
    if apart:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65_536)  # every tensor is mapped by itself, and given back
    warm_up = replace(case, vocab=100, layers=1, hidden=64, micro_batch=1, prompt=8, answer=8)
    train(warm_up)  # loads what is loaded only when it is needed
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size begins anew
    train(case)
    return {"before": before, "peak": resident("VmHWM")}


def train(case: Case) -> None:
    """By the stages' own functions."""
    from epsilon_dpo.data.tokens.params import Tokens
    from epsilon_dpo.methods.registry import method_of
    from epsilon_dpo.training.alignment.alignment import align
    from epsilon_dpo.training.alignment.params import Align
    from epsilon_dpo.training.sft.params import SFT
    from epsilon_dpo.training.sft.sft import fine_tune

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # In a process of its own: what it makes is not to be found in this one's memory.
        subprocess.run([sys.executable, __file__, "--inputs", json.dumps(asdict(case)), temporary], check=True)
        block = TRAINING | {
            "batch_size": case.micro_batch * case.accumulation,
            "micro_batch_size": case.micro_batch,
            "gradient_checkpointing": case.gradient_checkpointing,
            "lora": LORA if case.lora else None,
        }
        to = {"out": folder / "out", "scratch": folder / "scratch", "track": lambda *_: None, "save_steps": 1000}
        if case.method is None:
            config = SFT(**block, completion_only_loss=True)
            tokens = Tokens(max_prompt_length=case.prompt, max_length=case.prompt + case.answer)
            fine_tune(config, tokens, 0, base=folder / "base", validated=folder / "pairs", **to)
        else:
            method: Any = method_of("x", case.method)
            settings = Align(**block, logps_token_chunk=512, share_prompt=True)
            align(method, settings, 0, sft_model=folder / "base/model", pairs=folder / "pairs", **to)


def resident(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(what))


def write_inputs(case: Case, folder: Path) -> None:
    """base/model, base/tokenizer and pairs/: random weights, and pairs of these lengths in both stages' forms."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from epsilon_dpo.pipeline.stage.files import write_jsonl

    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end>"}
    words = [*special.values(), *(f"w{n}" for n in range(FIRST_WORD, case.vocab))]
    core = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = Whitespace()
    template = "{% for m in messages %}{{ m['content'] }}{% if m.role == 'assistant' %}<end>{% endif %} {% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **special)
    for place in ("base/model", "base/tokenizer"):
        tokenizer.save_pretrained(folder / place)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(case.config()).save_pretrained(folder / "base/model")
    random = np.random.default_rng(0)
    for split, count in (("train", STEPS * case.micro_batch * case.accumulation), ("eval", case.micro_batch)):
        rows = []
        for number in range(count):
            ids = [random.integers(FIRST_WORD, case.vocab, n) for n in (case.prompt, case.answer - 1, case.answer - 1)]
            texts = [" ".join(f"w{token}" for token in part) for part in ids]
            rows.append(
                {
                    "id": f"pair/{number}",
                    "prompt": [{"role": "user", "content": texts[0]}],
                    "chosen": [{"role": "assistant", "content": texts[1]}],
                    "prompt_ids": ids[0].tolist(),
                    "chosen_ids": [*ids[1].tolist(), 2],
                    "rejected_ids": [*ids[2].tolist(), 2],
                }
            )
        (folder / "pairs").mkdir(exist_ok=True)
        write_jsonl(folder / "pairs" / f"{split}.jsonl", rows)


ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (512, 512, 512)  # of a pair's prompt and answers
# As published in each model's config.json.
MODELS = {
    "SmolLM2-135M": ("llama", 49_152, 576, 1536, 30, 9, 3, 64, True),
    "gemma-2-2b": ("gemma2", 256_000, 2304, 9216, 26, 8, 4, 256, True),
    "Mistral-7B": ("mistral", 32_000, 4096, 14_336, 32, 32, 8, 128, False),
    "Llama-3-8B": ("llama", 128_256, 4096, 14_336, 32, 32, 8, 128, False),
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SIZES = (*SIZES, "num_key_value_heads", "head_dim", "tie_word_embeddings")


def models_table() -> None:
    """GB per GPU of ε-DPO: a pair a micro-batch, bf16 autocast over float32 weights, gradient checkpointing."""
    from transformers import AutoConfig

    from epsilon_dpo.check.params_file import load_file
    from epsilon_dpo.forecast.lengths import Lengths
    from epsilon_dpo.forecast.machine import Machine
    from epsilon_dpo.forecast.trainings import given, of_align
    from epsilon_dpo.training.loop.params import LoRA

    params = load_file(ROOT / "presets/hh-gemma-2-2b.yaml")
    block = params.align.model_copy(update={"batch_size": 128, "micro_batch_size": 1})
    counts = (1, 4, 8)
    print(f"| model | layers, hidden size, vocabulary | |{''.join(f' {count} GPU |' for count in counts)}")
    print("|---|---|---|" + "---|" * len(counts), flush=True)
    for name, (kind, *sizes) in MODELS.items():
        config = AutoConfig.for_model(kind, **dict(zip(SIZES, sizes, strict=True)), max_position_embeddings=8192)
        for what, lora in (("all weights", None), ("LoRA", LoRA(**LORA))):
            aligned = params.model_copy(
                update={
                    "align": block.model_copy(update={"lora": lora}),
                    "runs": {"epsilon_dpo": params.runs["epsilon_dpo_b001"]},
                }
            )
            cells = []
            for count in counts:
                of = given(aligned, config, Machine(gpus=count), Lengths([LENGTHS], 1, True))
                memory = of_align(of)[0].memory
                assert memory is not None
                cells.append(f" {memory.total / 1e9:.1f} |")
            shape = f"{sizes[3]}, {sizes[1]:,}, {sizes[0]:,}"
            print(f"| {name} | {shape} | {what} |{''.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--models", action="store_true", help="print the table of models instead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inputs", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inputs:
        write_inputs(Case(**json.loads(asked.inputs[0])), Path(asked.inputs[1]))
        return
    if asked.models:
        models_table()
        return
    if asked.child:
        print(json.dumps(measure(CASES[asked.child], asked.apart)), file=sys.__stdout__)
        return
    print(f"{machine()}\n\n| training | parameters, M | forecast, MB | measured, MB | ÷ | with the heap's gaps, MB |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in asked.only:
        case, tensors, process = CASES[name], measured(name, ["--apart"]), measured(name, [])
        said = forecast(case)
        cells = f"{parameters(case):.1f} | {said:.0f} | {tensors:.0f} | {said / tensors:.2f} | {process:.0f}"
        print(f"| {name} | {cells} |", flush=True)


def measured(name: str, flags: list[str]) -> float:
    """MB that the training takes, in a process of its own."""
    command = [sys.executable, __file__, "--child", name, *flags]
    printed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found = json.loads(printed.stdout.splitlines()[-1])
    return float(found["peak"] - found["before"])


def parameters(case: Case) -> float:
    import torch

    from epsilon_dpo.forecast.architecture import model_of, sizes_of
    from epsilon_dpo.forecast.live import without_memory

    with without_memory():
        return sizes_of(model_of(case.config(), torch.float32)).parameters / 1e6


if __name__ == "__main__":
    main()
