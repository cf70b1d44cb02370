"""Token slots that a training step computes against the real tokens of its pairs, and what the difference costs.

    python benchmarks/tokens.py                                       # lengths drawn as HH's are
    python benchmarks/tokens.py --lengths out/pairs                   # those of a folder of stage `pairs`
    python benchmarks/tokens.py --lengths HH --tokenizer GEMMA        # folders of HH's files and of a Gemma tokenizer
    python benchmarks/tokens.py --seconds                             # CPU seconds and memory of whole steps as well

The trainer's own sampler, cut and collator make the micro-batches of one epoch. Real tokens are those of two rows per
pair without padding; a prompt that is run once counts twice among them, so less than 1 can be reached.

    two_rows      prompt and answer, for each answer of a pair; micro-batches as the sampler draws them
    two_rows_cut  the same, the pairs of an optimizer step cut into micro-batches of like length (micro_batches.py)
    one_row       prompt, chosen and rejected answer in a row (shared_prompt.py), micro-batches as drawn
    one_row_cut   both: what stage align does with align.share_prompt: true

--seconds takes the steps of one real trainer per variant in turns: DPO on a Gemma-2 of 4 layers of 128, V 2,000,
so that the body of the network is nearly all of it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hh import hh_rows
from lockstep import Turns, alternate, machine, table, taking_turns
from pair_lengths import Lengths, like_hh, of_folder, pairs_of
from shapes import PRESETS, Shape
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast, TrainingArguments

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.data.tokens.tokenisation import tokenise_pair
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.models.base.gemma_template import END_OF_TURN, TEMPLATE
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.alignment.pair_data import PairData
from epsilon_dpo.training.alignment.trainer import PreferenceTrainer
from epsilon_dpo.training.loop import micro_batches

VARIANTS = ("two_rows", "two_rows_cut", "one_row", "one_row_cut")
LIMITS = Tokens(max_prompt_length=512, max_length=1024)  # those of presets/hh-gemma-2-2b.yaml
TIMED = PRESETS["small"].changed(vocab_size=2000, hidden_size=128, intermediate_size=512, head_dim=32)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="like-hh", help="like-hh, a folder of stage pairs, or HH's folder")
    parser.add_argument("--tokenizer", type=Path, help="for HH's files")
    parser.add_argument("--split", default="test", help="of HH's files")
    parser.add_argument("--steps", nargs="+", default=["2x32", "8x8", "8x16"], help="pairs x micro-batches")
    parser.add_argument("--seconds", action="store_true", help="of steps of the last of --steps")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    lengths = lengths_of(args)
    splits = [tuple(map(int, step.split("x"))) for step in args.steps]
    if args.child:
        torch.set_num_threads(args.threads)
        take_steps(args.child, lengths, *splits[-1])
        return
    prompt, chosen, rejected = (sum(pair[part] for pair in lengths) / len(lengths) for part in range(3))
    print(
        f"{len(lengths)} pairs of {args.lengths}: prompt {prompt:.0f}, chosen {chosen:.0f}, rejected {rejected:.0f}\n"
    )
    print("| token slots ÷ real tokens | " + " | ".join(f"{size} pairs x {count}" for size, count in splits) + " |")
    print("|---|" + "---|" * len(splits))
    for variant in args.variants:
        shares = [f"{slots_per_token(variant, lengths, *split):.3f}" for split in splits]
        print(f"| {variant} | " + " | ".join(shares) + " |")
    print(f"\nno padding, prompt once: {(prompt + chosen + rejected) / (2 * prompt + chosen + rejected):.3f}")
    if args.seconds:
        print(
            f"\n{args.steps[-1]} pairs a step, {args.threads} thread(s), {args.rounds} rounds\n{machine()}\n",
            flush=True,
        )
        command = [sys.executable, __file__, *sys.argv[1:], "--child"]
        found = alternate({name: [*command, name] for name in args.variants}, args.rounds, warm_up=1)
        print(table(found, args.variants[0]))


def lengths_of(args: argparse.Namespace) -> Lengths:
    """The pairs' lengths in tokens: prompt, chosen, rejected."""
    if args.lengths == "like-hh":
        return like_hh(2312)
    folder = Path(args.lengths)
    if (folder / "train.jsonl").is_file():
        return of_folder(folder)
    if args.tokenizer is None:
        raise SystemExit(f"{folder} holds no train.jsonl; for HH's files, --tokenizer must name a tokenizer's folder")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer, trust_remote_code=False, eos_token=END_OF_TURN)
    tokenizer.chat_template = TEMPLATE
    found = []
    for row in hh_rows(folder, args.split):
        sides = {"prompt": row["chosen"][:-1], "chosen": row["chosen"][-1:], "rejected": row["rejected"][-1:]}
        try:
            pair = tokenise_pair(tokenizer, sides, LIMITS)
        except UserError:  # stage validate would drop it
            continue
        found.append(tuple(len(pair[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")))
    return found


def slots_per_token(variant: str, lengths: Lengths, size: int, count: int) -> float:
    """Of one epoch, in steps of `count` micro-batches of `size` pairs."""
    slots = 0
    with tempfile.TemporaryDirectory() as scratch, cutting(variant):
        trainer = trainer_of(variant, PRESETS["tiny"], lengths, size, count, scratch)
        drawn = iter(trainer.get_train_dataloader())
        for _ in range(-(-len(lengths) // (size * count))):
            steps, _ = trainer.get_batch_samples(drawn, 1, trainer.args.device)
            slots += sum(batch["input_ids"].numel() for batch in steps[0].batches)
    return slots / sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in lengths)


def cutting(variant: str) -> AbstractContextManager[Any]:
    """Inside, the trainer cuts steps as the variant says."""
    return nullcontext() if variant.endswith("_cut") else patch.object(micro_batches, "cut_by_length", as_drawn)


def as_drawn(lengths: Sequence[int], count: int | None, most: int) -> list[list[int]]:
    return [list(range(start, min(start + most, len(lengths)))) for start in range(0, len(lengths), most)]


def take_steps(variant: str, lengths: Lengths, size: int, count: int) -> None:
    turns = Turns()
    with tempfile.TemporaryDirectory() as scratch, cutting(variant):
        trainer = trainer_of(variant, TIMED, lengths, size, count, scratch)
        trainer.add_callback(taking_turns(turns))
        trainer.train()


def trainer_of(variant: str, shape: Shape, lengths: Lengths, size: int, count: int, scratch: str) -> PreferenceTrainer:
    """Stage align's trainer on random tokens of these lengths."""
    torch.manual_seed(0)
    config = Gemma2Config(**shape.config(), attn_implementation="eager")
    data = PairData(pairs_of(lengths, shape.vocab_size))
    return PreferenceTrainer(
        Gemma2ForCausalLM(config),
        Gemma2ForCausalLM(config),
        method_of("x", {"method": "dpo", "beta": 0.1}),
        token_chunk=512,
        args=TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=size * count,  # a whole optimizer step, see training/loop/whole_steps.py
            per_device_eval_batch_size=size,
            num_train_epochs=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            activation_checkpointing=False,
        ),
        train_dataset=data,
        eval_dataset=data,
        pad_token_id=0,
        callbacks=[],
        share_prompt=variant.startswith("one_row"),
    )


if __name__ == "__main__":
    main()
