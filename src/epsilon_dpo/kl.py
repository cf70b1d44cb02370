"""Forward KL of a policy from the reference, D(ref || pi), on answers that the reference sampled.

Two estimators of E_x E_{y ~ ref} [log ref(y|x) - log pi(y|x)], both in nats per answer, from one pass:
- `kl_fwd_rb`: sum_t KL(ref(.|s_t) || pi(.|s_t)) over the full vocabulary (Rao-Blackwell: the expectation over each
  token is taken exactly). Unbiased, never negative, with a far smaller variance.
- `kl_fwd_mc`: sum_t log ref(y_t) - log pi(y_t). Unbiased; single answers are often negative.

Tokens: the answer's with its stop token, no padding; answers cut at max_new_tokens keep their partial sum. Log-probs
are of temperature 1 in float32. Answers sampled at another temperature visit other prefixes: then neither is an
estimate of the forward KL (the stage writes the temperature beside the numbers). For TR-DPO the reference is the
initial one, too.
"""

import math
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

from epsilon_dpo.data.tokenisation import prompt_ids
from epsilon_dpo.data.tokenizer_folder import load_tokenizer
from epsilon_dpo.device import on_device
from epsilon_dpo.errors import UserError
from epsilon_dpo.logps import completion_logps
from epsilon_dpo.padding import pad_right
from epsilon_dpo.params.kl import KL
from epsilon_dpo.statistics import mean, standard_error

Row = dict[str, Any]
ROUNDING = 1e-4  # nats; what float32 may take from a mean that is zero


def forward_kl(policy: Path, reference: Path, samples: list[Row], params: KL) -> list[Row]:
    """`id`, `kl_fwd_rb`, `kl_fwd_mc` and `tokens` of each sample, in the order given.

    Args:
        policy, reference: model folders; the reference's holds the tokenizer.
        samples: rows of out/reference/samples.jsonl.
    """
    tokenizer = load_tokenizer(reference)
    models = [
        on_device(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)) for folder in (policy, reference)
    ]
    answers = [(prompt_ids(tokenizer, row["prompt"]), row["response_ids"]) for row in samples]
    numbers = answers_kl(models[0], models[1], answers, params.batch_size, params.token_chunk)
    return [{"id": row["id"], **found} for row, found in zip(samples, numbers, strict=True)]


def answers_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    answers: list[tuple[list[int], list[int]]],
    batch_size: int,
    token_chunk: int,
) -> list[Row]:
    """Both sums of each answer.

    Args:
        answers: ids of prompt and answer, the answer not empty.
        batch_size: answers at once.
        token_chunk: answer tokens whose logits exist at once.
    """
    by_length = sorted(range(len(answers)), key=lambda i: (-len(answers[i][0]) - len(answers[i][1]), i))
    numbers: dict[int, Row] = {}
    with tqdm(total=len(answers), desc="kl", unit="answer") as bar:
        for start in range(0, len(answers), batch_size):
            rows = by_length[start : start + batch_size]
            padded = pad_right([answers[i] for i in rows], pad_token_id=0)  # masked, so any id will do
            batch = {name: x.to(policy.device) for name, x in padded.items()}
            logps = completion_logps(
                policy,
                reference,
                batch["input_ids"],
                batch["attention_mask"],
                batch["completion_mask"],
                token_chunk,
            )
            assert logps.reference is not None and logps.kl_ref_policy is not None
            rb = logps.kl_ref_policy.double().sum(1).tolist()
            mc = (logps.reference - logps.policy).double().sum(1).tolist()
            for i, one_rb, one_mc in zip(rows, rb, mc, strict=True):
                numbers[i] = {"kl_fwd_rb": one_rb, "kl_fwd_mc": one_mc, "tokens": len(answers[i][1])}
            bar.update(len(rows))
    return [numbers[i] for i in range(len(answers))]


def summary(records: list[Row], confidence: float) -> dict[str, float]:
    """Per estimator its mean over prompts, `_se` and the ends `_low`, `_high` of its confidence interval; and `n`.

    Raises:
        UserError: a number is not finite: the policy is broken.
        RuntimeError: the mean of `kl_fwd_rb` is negative, which no pair of distributions gives.
    """
    found: dict[str, float] = {"n": len(records)}
    for name in ("kl_fwd_rb", "kl_fwd_mc"):
        values = [record[name] for record in records]
        if not all(map(math.isfinite, values)):
            raise UserError(
                "The policy's log-probs on the reference's answers are not finite: its training diverged; lower "
                "align.learning_rate and run again."
            )
        estimate = mean(values, confidence)
        found |= {name: estimate.value, f"{name}_se": standard_error(values)}
        found |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    if found["kl_fwd_rb"] < -ROUNDING:
        raise RuntimeError(
            f"a mean full-vocabulary KL of {found['kl_fwd_rb']} nats is negative: the estimator is wrong"
        )
    return found
