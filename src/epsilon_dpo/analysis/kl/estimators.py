"""How far a policy has moved from the reference: five estimators of two divergences, in nats per answer.

Forward, KL(reference || policy) = E_x E_{y ~ reference} [log reference(y|x) - log policy(y|x)]: `kl_fwd_rb`,
`kl_fwd_mc` and, without sampling, `kl_fwd_data`. Reverse, KL(policy || reference), on the policy's own answers:
`kl_rev_rb` and `kl_rev_mc`. The two directions are different quantities, never to be mixed.

`rb` (Rao-Blackwell) takes the expectation over each token exactly, over the whole vocabulary, so no answer's number is
negative and the variance is far smaller; `mc` looks at the sampled tokens alone, and single answers are often negative.
Both are unbiased. `kl_fwd_data` is a proxy: the chosen answers take the place of samples of the reference, which they
are as far as SFT learned their distribution (Rafailov et al. 2024, arXiv 2404.12358).

All that is sampled presumes answers of the policies themselves: temperature 1, the whole distribution. A temperature, a
top-p or a penalty draws them from another one, which visits other prefixes. A mean over those is a KL neither of the
policies nor of what was sampled from (whose supports may differ, so that it may be infinite): it is reported with a
caution, and tracked on no policy's row. `kl_fwd_data` samples nothing and stays what it is. An answer that ends at a
further stop token or string is whole: where it ends follows from its tokens, so its sum is that of the stopped answer.

The reference is the SFT model. Methods that move theirs (TR-DPO) are measured against the initial one, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from epsilon_dpo.analysis.intervals.rates import mean, per_prompt, skewed_mean, standard_error
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import Row

# Whose answers a record is of.
REFERENCE, POLICY, CHOSEN = "reference", "policy", "chosen"
WHOSE = {
    REFERENCE: "the reference's own answers, sampled (out/reference/samples.jsonl)",
    POLICY: "the policy's own answers, sampled (out/sample/RUN/samples.jsonl)",
    CHOSEN: "the chosen answers of the evaluation pairs (out/pairs/eval.jsonl)",
}
ROUNDING = 1e-4  # nats; what float32 may take from a mean that is zero


class Sums(NamedTuple):
    """Over the tokens of one answer, in nats."""

    policy: float  # log policy(y|x)
    reference: float  # log reference(y|x)
    kl_ref_policy: float  # sum_t KL(reference(.|s_t) || policy(.|s_t)), whole vocabulary
    kl_policy_ref: float  # sum_t KL(policy(.|s_t) || reference(.|s_t)), whole vocabulary


@dataclass(frozen=True)
class Estimator:
    """A mean over answers.

    Attributes:
        answers: source of the answers, a key of WHOSE.
        estimates: the divergence.
        formula: text of the value of one answer, which `of` computes.
        never_negative: whether the mean of a correct implementation cannot be negative, whatever the answers.
    """

    name: str
    answers: str
    estimates: str
    formula: str
    of: Callable[[Sums], float]
    never_negative: bool = False


FORWARD, REVERSE = "KL(reference || policy)", "KL(policy || reference)"
BY_TOKEN = "sum_t {} of the next token after y_<t, over the whole vocabulary"
ESTIMATORS = (
    Estimator("kl_fwd_rb", REFERENCE, FORWARD, BY_TOKEN.format(FORWARD), lambda sums: sums.kl_ref_policy, True),
    Estimator(
        "kl_fwd_mc", REFERENCE, FORWARD, "log reference(y) - log policy(y)", lambda sums: sums.reference - sums.policy
    ),
    Estimator(
        "kl_fwd_data",
        CHOSEN,
        f"{FORWARD}, as far as the reference writes like the chosen answers",
        "log reference(y) - log policy(y)",
        lambda sums: sums.reference - sums.policy,
    ),
    Estimator("kl_rev_rb", POLICY, REVERSE, BY_TOKEN.format(REVERSE), lambda sums: sums.kl_policy_ref, True),
    Estimator(
        "kl_rev_mc", POLICY, REVERSE, "log policy(y) - log reference(y)", lambda sums: sums.policy - sums.reference
    ),
)


def estimators_of(answers: str) -> list[Estimator]:
    return [estimator for estimator in ESTIMATORS if estimator.answers == answers]


def summary(records: list[Row], confidence: float) -> dict[str, float]:
    """Per estimator its mean over answers, called by its `name`, and at `name`

    `_se`: its standard error, which counts answers to one prompt as one observation; `_low`, `_high`: the ends of the
    interval, mean ± t standard errors (Student's t of the prompts), and of what is never negative that of
    rates.skewed_mean; `_n`: answers; `_prompts`: prompts; `_truncated_share`: the share of answers that were cut before
    their stop token, whose sums end at the cut.

    Args:
        records: rows of records.kl_records.

    Raises:
        UserError: a number is not finite (the policy is broken), or there are fewer than two prompts.
        RuntimeError: the mean of a full-vocabulary KL is negative, which no pair of distributions gives.
    """
    found: dict[str, float] = {}
    for estimator in ESTIMATORS:
        rows = [record for record in records if record["answers"] == estimator.answers]
        found |= _estimate(estimator, rows, confidence)
    return found


def sampled_under(temperature: float, logits: Row) -> str:
    """What the answers were drawn under that the policies are not, such as `temperature 0.7, top_p 0.95`; else empty.

    Args:
        logits: what shaped the distribution beside the temperature, by name (metrics.json of stage `sample`).
    """
    shaped = ({} if temperature == 1.0 else {"temperature": temperature}) | logits
    return ", ".join(f"{name} {value:g}" for name, value in shaped.items())


def described(confidence: float, under: str = "") -> Row:
    """What the metrics of `summary` mean: the content of estimators.json.

    Args:
        under: text of `sampled_under`; if there is any, a `caution` says what that means.
    """
    sampled = [estimator.name for estimator in ESTIMATORS if estimator.answers != CHOSEN]
    caution = {
        "caution": f"Under {under}: not the policies' KL. The answers were drawn from other distributions than the "
        f"policies', so {', '.join(sampled)} estimate no KL; kl_fwd_data alone can be read as a distance."
    }
    return {
        "unit": "nats per answer",
        "tokens": "the answer's tokens with its stop token, no padding; answers that were cut keep their partial sum",
        "log_probs": "of temperature 1 over the whole vocabulary (no top-p), in float32; an estimate on sampled "
        "answers is unbiased only if they were sampled at temperature 1 (sample_temperature)",
        "reference": "the SFT model, also for methods that move their reference during training",
        "interval": f"{confidence:g}: mean ± t standard errors, which count answers to one prompt as one observation; "
        "of kl_fwd_rb and kl_rev_rb, whose values are skewed, Hall's (1992), which reaches further up than down",
        "estimators": {
            estimator.name: {
                "estimates": estimator.estimates,
                "answers": WHOSE[estimator.answers],
                "per_answer": estimator.formula,
            }
            for estimator in ESTIMATORS
        },
        **(caution if under else {}),
    }


def _estimate(estimator: Estimator, rows: list[Row], confidence: float) -> dict[str, float]:
    name = estimator.name
    if not all(math.isfinite(row[name]) for row in rows):
        raise UserError(
            f"The policy's log-probs are not finite on {WHOSE[estimator.answers]}: its training diverged; lower its "
            "learning_rate, in its run or in block align (of all runs), and run again."
        )
    prompts = [row["prompt_id"] for row in rows]
    if len(set(prompts)) < 2:
        raise UserError(
            f"{name} needs {WHOSE[estimator.answers]}, to two prompts at least, to know its error; raise "
            "sample.max_prompts or fetch other data."
        )
    values = per_prompt([row[name] for row in rows], prompts)
    estimate = (skewed_mean if estimator.never_negative else mean)(values, confidence)
    if estimator.never_negative and estimate.value < -ROUNDING:
        raise RuntimeError(f"{name}, a mean full-vocabulary KL, is {estimate.value:.4g} nats: the estimator is wrong")
    return estimate.columns(name) | {
        f"{name}_se": standard_error(values),
        f"{name}_n": len(rows),
        f"{name}_prompts": len(values),
        f"{name}_truncated_share": sum(row["truncated"] for row in rows) / len(rows),
    }
