"""What ε-DPO would decide on the evaluation pairs under a trained policy, and the margins of each decision.

The paper (arXiv 2502.13177, Figure 4 and Tables 5-8) groups pairs by how the log-prob margin z of their answers changes
when beta rises by a factor 1/(1-ε) or falls by 1/(1+ε), both estimated by mixing the logits of policy and reference:
`decreasing` in beta (s = +1, a lower beta separates the answers better), `increasing` (s = -1), or neither. The changes
of z are computed as a training with `step_precision: exact` does, whose decision on the same pair is the same.

To first order in ε the decision is the sign of h - (K_w - K_l), h being the log-ratio margin and K the sum over an
answer of KL(policy || reference): d z / d ε at ε = 0. That increasing pairs have smaller margins than decreasing ones
therefore follows almost from the definition; `first_order_agreement` says how nearly.
"""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from epsilon_dpo.analysis.intervals.rates import mean_over_prompts
from epsilon_dpo.analysis.monotonicity.params import Monotonicity
from epsilon_dpo.methods.epsilon_dpo import epsilon_steps
from epsilon_dpo.models.logps.head import completion_logps
from epsilon_dpo.models.logps.padding import pad_right
from epsilon_dpo.models.policy.folder import load_policy
from epsilon_dpo.pipeline.stage.files import Row
from epsilon_dpo.pipeline.stage.journal import Journal
from epsilon_dpo.pipeline.stage.runtime import on_device

GROUPS = {1: "decreasing", -1: "increasing", 0: "neither"}  # by s, as beta increases


def decisions(
    policy: Path, reference: Path, pairs: list[Row], params: Monotonicity, journal: Journal | None = None
) -> list[Row]:
    """One record per pair, in the order given, in nats:

    `id`; `z`, `z_minus`, `z_plus`: log-prob of chosen minus rejected under the policy, pi(beta-) and pi(beta+);
    `delta_minus`, `delta_plus`: z_minus - z and z_plus - z, computed without subtracting them;
    `margin`: h, the same difference of log-ratios against the reference, without any beta; `kl_chosen`, `kl_rejected`:
    K of both answers; `first_order`: h - (K_w - K_l); `step`: s; `group`: its name.

    Args:
        policy, reference: model folders.
        pairs: rows of out/pairs/*.jsonl.
        journal: takes the batches of pairs that are done.
    """
    journal = journal or Journal()
    models = [on_device(load_policy(path, torch.float32)) for path in (policy, reference)]
    order = sorted(range(len(pairs)), key=lambda i: -_length(pairs[i]))
    found: dict[int, Row] = {}
    with tqdm(total=len(pairs), desc="monotonicity", unit="pair") as bar:
        for start in range(0, len(order), params.batch_size):
            rows = order[start : start + params.batch_size]
            compute = partial(_columns, models, [pairs[i] for i in rows], params)
            columns = journal.of(["monotonicity", start], compute)
            for place, i in enumerate(rows):
                row = {name: values[place] for name, values in columns.items()}
                step = int(row.pop("step"))
                found[i] = {"id": pairs[i]["id"], **row, "step": step, "group": GROUPS[step]}
            bar.update(len(rows))
    return [found[i] for i in range(len(pairs))]


def summary(records: list[Row], pairs: list[Row], confidence: float) -> dict[str, float]:
    """Per group its `share` of all pairs and its mean `margin` with the ends of its interval (two prompts at least).

    And `first_order_agreement`, the share of moved pairs whose step is the sign of `first_order`.

    Args:
        records, pairs: what `decisions` gave and was given.
    """
    of = [tuple(pair["prompt_ids"]) for pair in pairs]
    found: dict[str, float] = {"n": len(records)}
    for group in GROUPS.values():
        margins = [record["margin"] for record in records if record["group"] == group]
        prompts = [prompt for record, prompt in zip(records, of, strict=True) if record["group"] == group]
        found[f"share/{group}"] = len(margins) / len(records)
        if len(set(prompts)) > 1:
            found |= mean_over_prompts(margins, prompts, confidence).named(f"margin/{group}")
    moved = [record for record in records if record["step"]]
    if moved:
        agreeing = sum((record["first_order"] > 0) == (record["step"] > 0) for record in moved)
        found["first_order_agreement"] = agreeing / len(moved)
    return found


def _length(pair: Row) -> int:
    """Tokens of the prompt with the longer answer."""
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def _columns(models: list[PreTrainedModel], pairs: list[Row], params: Monotonicity) -> dict[str, list[float]]:
    """The values of a batch of pairs, by name."""
    sides = [(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
    batch = {name: x.to(models[0].device) for name, x in pad_right(sides, pad_token_id=0).items()}
    scored = completion_logps(
        models[0],
        models[1],
        batch["input_ids"],
        batch["attention_mask"],
        batch["completion_mask"],
        params.token_chunk,
        params.epsilon,
    )
    per_pair = _per_pair({name: x.double().sum(1) for name, x in scored._asdict().items() if x is not None})
    return {name: values.tolist() for name, values in per_pair.items()}


def _per_pair(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """From sums over each answer, [2B] with the chosen ones first, to the values of each pair, [B]."""
    margins = {}
    for name, both in sums.items():
        chosen, rejected = both.chunk(2)
        margins[name] = chosen - rejected
    kl_chosen, kl_rejected = sums["kl_policy_ref"].chunk(2)
    margin = margins["policy"] - margins["reference"]
    z, delta_minus, delta_plus = margins["policy"], margins["delta_minus"], margins["delta_plus"]
    return {
        "z": z,
        "z_minus": z + delta_minus,
        "z_plus": z + delta_plus,
        "delta_minus": delta_minus,
        "delta_plus": delta_plus,
        "margin": margin,
        "kl_chosen": kl_chosen,
        "kl_rejected": kl_rejected,
        "first_order": margin - (kl_chosen - kl_rejected),
        "step": epsilon_steps(torch.zeros_like(z), delta_minus, delta_plus),
    }
