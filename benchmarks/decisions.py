"""How many of ε-DPO's decisions rounding changes, on a real model at a real learning rate.

    python benchmarks/decisions.py MODEL PAIRS        # a model folder, and a folder of stage pairs (out/pairs)

The policy is trained from MODEL by DPO in float32 (AdamW, a constant learning rate, 4 pairs a step). After some steps
the pairs of PAIRS/eval.jsonl are decided: by the exact form on float32 forward passes, which counts as the truth, and
by the other forms and under bfloat16 autocast, as `bf16: true` computes.
"""

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from epsilon_dpo.methods.epsilon_dpo import epsilon_steps
from epsilon_dpo.models.logps.head import Scoring, add_logps_head, head_of
from epsilon_dpo.models.logps.kernel import Reference, TokenLogps
from epsilon_dpo.models.logps.tiles import StepPrecision
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.stage.files import Row, read_jsonl
from epsilon_dpo.training.alignment.pair_data import PairCollator, PairData

BETA, PAIRS_A_STEP, TOKEN_CHUNK = 0.05, 4, 512
FORMS: list[tuple[bool, StepPrecision]] = [(False, "fp32"), (True, "exact"), (True, "fp32"), (True, "official_bf16")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--after", type=int, nargs="+", default=[1, 4, 16, 64], help="steps after which to decide")
    parser.add_argument("--eval-pairs", type=int, default=64)
    return parser.parse_args()


def margins(found: Tensor | None) -> Tensor:
    assert found is not None
    chosen, rejected = found.double().sum(1).chunk(2)
    return chosen - rejected


def scored(
    policy: PreTrainedModel, reference: PreTrainedModel, rows: list[Row], autocast: bool, scoring: dict[str, object]
) -> TokenLogps:
    batch = PairCollator(0)(PairData(rows).rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.no_grad():
            states = Reference(reference(**batch), head_of(reference))
        found: TokenLogps = policy(**batch, scoring=Scoring(TOKEN_CHUNK, states, **scoring))
    return found


@torch.no_grad()
def decisions(
    policy: PreTrainedModel, reference: PreTrainedModel, rows: list[Row], epsilon: float, autocast: bool, form: str
) -> tuple[Tensor, Tensor]:
    """s and |z_minus - z| of each pair, [n] each."""
    steps, sizes = [], []
    for start in range(0, len(rows), PAIRS_A_STEP):
        part = rows[start : start + PAIRS_A_STEP]
        found = scored(policy, reference, part, autocast, {"eps_c": epsilon, "step_precision": form})
        z = margins(found.policy)
        if form == "exact":
            minus, plus = z + margins(found.delta_minus), z + margins(found.delta_plus)
            steps.append(epsilon_steps(torch.zeros_like(z), margins(found.delta_minus), margins(found.delta_plus)))
        else:
            minus, plus = margins(found.logps_beta_minus), margins(found.logps_beta_plus)
            if form == "official_bf16":
                z, minus, plus = (
                    margins_rounded(x) for x in (found.policy, found.logps_beta_minus, found.logps_beta_plus)
                )
            steps.append(epsilon_steps(z, minus, plus))
        sizes.append((minus - z).abs())
    return torch.cat(steps), torch.cat(sizes)


def margins_rounded(found: Tensor | None) -> Tensor:
    """As the method rounds them: sums, and their difference, in bfloat16."""
    assert found is not None
    chosen, rejected = found.sum(1).to(torch.bfloat16).chunk(2)
    return (chosen - rejected).float()


def main() -> None:
    args = arguments()
    reference = load_policy(args.model, torch.float32)
    policy = copy.deepcopy(reference)
    for model in (policy, reference):
        add_logps_head(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.learning_rate, weight_decay=0.0)
    train = read_jsonl(args.pairs / "train.jsonl")
    rows = read_jsonl(args.pairs / "eval.jsonl")[: args.eval_pairs]
    names = [f"{'bf16 forward, ' if autocast else ''}{form}" for autocast, form in FORMS]
    print("| steps | median change of z | lowered / raised | " + " | ".join(names) + " |")
    print("|---" * (3 + len(FORMS)) + "|", flush=True)
    for step in range(1, max(args.after) + 1):
        start = (step - 1) * PAIRS_A_STEP % (len(train) - PAIRS_A_STEP)
        found = scored(policy, reference, train[start : start + PAIRS_A_STEP], False, {})
        h = margins(found.policy) - margins(found.reference)
        torch.nn.functional.softplus(-BETA * h).mean().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step not in args.after:
            continue
        truth, sizes = decisions(policy, reference, rows, args.epsilon, False, "exact")
        wrong = [
            int((decisions(policy, reference, rows, args.epsilon, autocast, form)[0] != truth).sum())
            for autocast, form in FORMS
        ]
        shares = f"{int((truth > 0).sum())} / {int((truth < 0).sum())} of {len(rows)}"
        print(f"| {step} | {sizes.median():.1e} | {shares} | " + " | ".join(map(str, wrong)) + " |", flush=True)


if __name__ == "__main__":
    main()
