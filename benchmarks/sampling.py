"""Answers to prompts of HH's lengths: ours against transformers' generate() in plain batches.

    python benchmarks/sampling.py --quick      # a minute's look
    python benchmarks/sampling.py              # 256 prompts, vocabulary of 32,000

Both sample at temperature 1 from one small Gemma-2. A random model does not stop like a trained one, so an answer's
length is drawn as HH's chosen answers are, and its last token made the stop token. `plain` is what one writes first:
`generate(do_sample=True)` on batches of 16 prompts in the order of the file, padded on the left.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from lockstep import Turns, alternate, machine, ratio
from pair_lengths import FIRST_WORD, like_hh
from shapes import PRESETS
from transformers import Gemma2Config, Gemma2ForCausalLM, GenerationConfig, LogitsProcessor, LogitsProcessorList

from epsilon_dpo.pipeline.stage.runtime import set_up
from epsilon_dpo.sampling.decoding.decoding import decode
from epsilon_dpo.sampling.decoding.noise import GumbelNoise

STOP = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--batch-size", type=int, default=64, help="of ours")
    parser.add_argument("--plain-batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="64 prompts, vocabulary of 2,000, 3 rounds")
    parser.add_argument("--child", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)  # token slots instead of time
    found = parser.parse_args()
    if found.quick:
        found.prompts, found.vocab, found.rounds = 64, 2000, 3
    return found


def main() -> None:
    args = arguments()
    if args.child:
        child(args)
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--child"]
    found = alternate({name: [*command, name] for name in ("plain", "ours")}, args.rounds, warm_up=1)
    tokens = sum(answer for _, answer, _ in like_hh(args.prompts))
    print(f"{args.prompts} prompts, vocabulary of {args.vocab}, {args.threads} thread(s), {args.rounds} rounds")
    print(f"{machine()}\n")
    print("| variant | batch | tokens a CPU second | token slots ÷ useful tokens | added MB |\n|---|---|---|---|---|")
    for name, one in found.items():
        counted = subprocess.run([*command, name, "--count"], capture_output=True, text=True, check=True).stdout
        batch = args.batch_size if name == "ours" else args.plain_batch_size
        speed = tokens / np.median(one.cpu)
        print(f"| {name} | {batch} | {speed:.0f} | {json.loads(counted):.2f} | {one.added:.0f} |")
    median, low, high = ratio(found, "plain", "ours")
    print(f"\ntokens a second, ours ÷ plain: {median:.2f} [{low:.2f}, {high:.2f}]")


def child(args: argparse.Namespace) -> None:
    set_up(0, args.threads)  # memory is kept from step to step, as in the stages
    shape = PRESETS["small"].changed(vocab_size=args.vocab)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": STOP, "attn_implementation": "eager"}
    model = Gemma2ForCausalLM(Gemma2Config(**shape.config(), **special)).eval()
    lengths = like_hh(args.prompts)
    random = np.random.default_rng(0)
    prompts = [random.integers(FIRST_WORD, args.vocab, prompt).tolist() for prompt, _, _ in lengths]
    answers = [answer for _, answer, _ in lengths]
    step = ours if args.child == "ours" else plain
    size = args.batch_size if args.child == "ours" else args.plain_batch_size
    if args.count:
        slots: list[int] = []
        model.register_forward_pre_hook(lambda _, a, kw: slots.append(kw["input_ids"].numel()), with_kwargs=True)
        step(model, prompts, answers, size)
        useful = sum(map(len, prompts)) + sum(answer - 1 for answer in answers)
        print(json.dumps(sum(slots) / useful))
        return
    turns = Turns()
    while True:
        turns.pause()
        step(model, prompts, answers, size)


def ours(model: Gemma2ForCausalLM, prompts: list[list[int]], answers: list[int], size: int) -> None:
    noise = UntilLength(answers)
    for i, tokens in decode(model, prompts, noise, lambda ids: ids[-1] == STOP, max(answers), size):
        assert len(tokens) == answers[i]


class UntilLength(GumbelNoise):
    """Samples any token but the stop token, and that one at the end of each row's answer."""

    def __init__(self, answers: list[int]) -> None:
        super().__init__(list(range(len(answers))), temperature=1.0)
        self.left = list(answers)

    def __call__(self, scores: torch.Tensor, rows: list[int]) -> torch.Tensor:
        for row in rows:
            self.left[row] -= 1
        return stopped(super().__call__(scores, rows), [self.left[row] for row in rows])


def stopped(scores: torch.Tensor, left: list[int]) -> torch.Tensor:
    scores[:, STOP] = torch.tensor([torch.inf if count <= 0 else -torch.inf for count in left])
    ended = torch.tensor([count <= 0 for count in left])
    scores[ended, STOP + 1 :] = -torch.inf
    scores[ended, :STOP] = -torch.inf
    scores[ended, STOP] = 0.0
    return scores


@torch.inference_mode()
def plain(model: Gemma2ForCausalLM, prompts: list[list[int]], answers: list[int], size: int) -> None:
    """Batches in the order given, each until its last row has stopped."""
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=max(answers), eos_token_id=STOP, pad_token_id=0
    )
    for start in range(0, len(prompts), size):
        rows, wanted = prompts[start : start + size], answers[start : start + size]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        ends = LogitsProcessorList([_Ends(longest, wanted)])
        model.generate(input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=ends)


class _Ends(LogitsProcessor):
    def __init__(self, prompt: int, answers: list[int]) -> None:
        self.prompt, self.answers = prompt, answers

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        drawn = input_ids.shape[1] - self.prompt + 1  # with this one
        return stopped(scores, [answer - drawn for answer in self.answers])


if __name__ == "__main__":
    main()
