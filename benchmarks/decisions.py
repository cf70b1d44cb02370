"""How many of ε-DPO's decisions rounding changes, on a real model at a real learning rate.

    python benchmarks/decisions.py MODEL PAIRS        # a model folder, and a folder of stage pairs (out/pairs)

The policy is trained from MODEL by DPO in float32 (AdamW, a constant learning rate, 4 pairs a step). After some steps
the pairs of PAIRS/eval.jsonl are decided: by the exact form on float32 forward passes, which counts as the truth, and
by the other forms and under bfloat16 autocast, as `bf16: true` computes.
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from epsilon_dpo.methods.epsilon_dpo import epsilon_steps
from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Reference, token_logps
from epsilon_dpo.models.logps.tiles import StepPrecision
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData

BETA, PAIRS_A_STEP, TOKEN_CHUNK = 0.05, 4, 512
TRUTH = "exact"
NAMES: dict[str, tuple[bool, StepPrecision]] = {  # column: whether models run under bfloat16 autocast, the form
    TRUTH: (False, "exact"),
    "fp32": (False, "fp32"),
    "bf16 forward, exact": (True, "exact"),
    "bf16 forward, fp32": (True, "fp32"),
    "bf16 forward, official_bf16": (True, "official_bf16"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--after", type=int, nargs="+", default=[1, 4, 16, 64], help="steps after which to decide")
    parser.add_argument("--eval-pairs", type=int, default=64)
    return parser.parse_args()


def batches_of(pairs: Path) -> Iterator[dict[str, Tensor]]:
    rows = PairData.read(pairs).rows
    for start in range(0, len(rows) - PAIRS_A_STEP + 1, PAIRS_A_STEP):
        yield PairCollator(0)(rows[start : start + PAIRS_A_STEP])


def states(model: PreTrainedModel, batch: dict[str, Tensor], autocast: bool) -> Reference:
    """Hidden states that predict the answers' tokens, with the head that follows them."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return Reference(model(**batch), head_of(model))


def decided(policy: Reference, reference: Reference, batch: dict[str, Tensor], epsilon: float, form: str) -> Tensor:
    """z, z_minus - z and z_plus - z of each pair, [3, B], in the arithmetic of `form`."""
    answers = batch["completion_mask"][:, 1:].bool()
    labels = batch["input_ids"][:, 1:][answers]
    with torch.autocast("cpu", torch.bfloat16, enabled=policy.hidden.dtype == torch.bfloat16):
        found = token_logps(*policy, labels, TOKEN_CHUNK, reference, epsilon, form)

    def margin(tokens: Tensor | None) -> Tensor:
        assert tokens is not None
        sums = torch.zeros(answers.shape).masked_scatter(answers, tokens).double().sum(1)
        if form != "official_bf16":
            return sums[: len(sums) // 2] - sums[len(sums) // 2 :]
        chosen, rejected = sums.to(torch.bfloat16).chunk(2)
        return (chosen - rejected).double()

    z = margin(found.policy)
    if form == "exact":
        return torch.stack([z, margin(found.delta_minus), margin(found.delta_plus)])
    return torch.stack([z, margin(found.logps_beta_minus) - z, margin(found.logps_beta_plus) - z])


@torch.no_grad()
def decisions(
    policy: PreTrainedModel, references: list[list[Reference]], batches: list[dict[str, Tensor]], epsilon: float
) -> tuple[dict[str, Tensor], Tensor]:
    """s of each pair by each form, [n] each, and |z_minus - z| as it is in truth, [n]."""
    found: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for batch, of_batch in zip(batches, references, strict=True):
        own = [states(policy, batch, autocast) for autocast in (False, True)]
        for name, (autocast, form) in NAMES.items():
            found[name].append(decided(own[autocast], of_batch[autocast], batch, epsilon, form))
    changes = {name: torch.cat(parts, 1) for name, parts in found.items()}
    steps = {name: epsilon_steps(torch.zeros_like(z), minus, plus) for name, (z, minus, plus) in changes.items()}
    return steps, changes[TRUTH][1].abs()


def main() -> None:
    args = arguments()
    reference = load_policy(args.model, torch.float32)
    policy = copy.deepcopy(reference)
    for model in (policy, reference):
        add_logps_head(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.learning_rate, weight_decay=0.0)
    train, held_out = ([*batches_of(args.pairs / f"{split}.jsonl")] for split in ("train", "eval"))
    held_out = held_out[: args.eval_pairs // PAIRS_A_STEP]
    with torch.no_grad():
        references = [[states(reference, batch, autocast) for autocast in (False, True)] for batch in held_out]
    print("| steps | median change of z | lowered / raised | " + " | ".join(n for n in NAMES if n != TRUTH) + " |")
    print("|---" * (2 + len(NAMES)) + "|", flush=True)
    for step in range(1, max(args.after) + 1):
        batch = train[(step - 1) % len(train)]
        with torch.no_grad():
            of_reference = states(reference, batch, False)
        found = policy(**batch, scoring=Scoring(TOKEN_CHUNK, of_reference))
        chosen, rejected = (found.policy - found.reference).sum(1).chunk(2)
        torch.nn.functional.softplus(-BETA * (chosen - rejected)).mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step in args.after:
            steps, sizes = decisions(policy, references, held_out, args.epsilon)
            truth = steps.pop(TRUTH)
            shares = f"{int((truth > 0).sum())} / {int((truth < 0).sum())} of {len(truth)}"
            wrong = " | ".join(str(int((other != truth).sum())) for other in steps.values())
            print(f"| {step} | {sizes.median():.1e} | {shares} | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
