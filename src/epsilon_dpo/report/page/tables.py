"""The values behind the page: tidy CSV tables, summary.json and metrics.json."""

from collections.abc import Iterable
from typing import Any

from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT, readable
from epsilon_dpo.report.page.results import Results, Row, RunResult

INTERVAL = ("", "_low", "_high")
OPPONENTS = (CHOSEN, SFT)
ESTIMATORS = ("kl_fwd_rb", "kl_fwd_mc", "kl_fwd_data", "kl_rev_rb", "kl_rev_mc")  # out/kl/RUN/estimators.json
KL = tuple(name + end for name in ESTIMATORS for end in ("", "_se", "_low", "_high", "_truncated_share"))
AFTER_TRAINING = (  # names of metrics; the log-ratio margin and the KL exist for methods with a reference
    "steps",
    "eval_loss",
    "eval_rewards/accuracies",
    "eval_rewards/margins",
    "eval_margins_raw",
    "eval_logps/chosen",
    "eval_kl/fwd_data",
)
OF_ANSWERS = ("mean_tokens", "truncated_share", "empty_share")
FEW = 5  # prompts: docs/statistics.md says how seldom a resampled interval covers with fewer not won, or not lost
DVC_METRICS = (*(f"win_rate/{CHOSEN}{end}" for end in INTERVAL), f"true_win_rate/{CHOSEN}", ESTIMATORS[0])


def policies(results: Results) -> list[Row]:
    """One row per policy, the SFT model first: what the figures and the headline table show.

    Keys are the metrics' names; one that does not exist for a policy (SFT against itself) is absent.
    """
    return [_sft_row(results), *(_run_row(run) for run in results.runs)]


def is_extreme(mean: float, prompts: int) -> bool:
    """Whether a mean of values between 0 and 1 is so near to either that an interval by resampling this many prompts is
    too narrow."""
    return prompts * min(mean, 1.0 - mean) < FEW


def curves(results: Results) -> list[Row]:
    """The training curves, one row per run, step and metric."""
    return [
        {"run": run.name, "step": row["step"], "metric": metric, "value": value}
        for run in results.runs
        for row in run.curve
        for metric, value in row.items()
        if metric != "step"
    ]


def beta_decisions(run: RunResult) -> dict[str, float] | None:
    """Mean shares of pairs whose beta was lowered, raised and kept, over the steps; None: no such decisions."""
    names = ("lowered", "raised", "kept")
    rows = [row for row in run.curve if all(f"eps/{name}" in row for name in names)]
    if not rows:
        return None
    return {name: sum(row[f"eps/{name}"] for row in rows) / len(rows) for name in names}


def summary(results: Results, comparisons: list[Row], methods: list[Row], statements: list[str]) -> Row:
    """The content of summary.json; `methods` are their comparisons."""
    return {
        "confidence": results.confidence,
        "n": results.n,
        "true_reward": results.has_truth,
        "dataset": results.dataset,
        "validation": results.validation["splits"],
        "data_sha256": results.digests,
        "judge": {**results.judge, **results.judged},
        **({} if results.teacher is None else {"teacher": results.teacher}),
        SFT: {"policy_sha256": results.reference["policy_sha256"], **_sft_row(results)},
        "runs": {
            run.name: {"config": run.config, "policy_sha256": run.policy_sha256, **_run_row(run)}
            | {"beta_decisions": beta_decisions(run)}
            for run in results.runs
        },
        **({"sampled_under": results.sampled_under} if results.sampled_under else {}),
        "comparisons": comparisons,
        "method_comparisons": methods,
        "statements": statements,
    }


def dvc_metrics(table: list[Row], under: str) -> Row:
    """The content of metrics.json, of which `dvc metrics` and `dvc exp show` make a column for each number: the few by
    which policies are compared, by policy. `table` is what `policies` returns, `under` that of
    `Results.sampled_under`."""
    return {row["run"]: readable(_kept(row, DVC_METRICS), under) for row in table}


def _sft_row(results: Results) -> Row:
    """SFT against the chosen answers is a control; its distance from itself is zero by definition."""
    found: Row = {"run": SFT, "method": SFT, "n": results.n}
    for name in ("win_rate", "true_win_rate"):
        found |= _taken(results.controls, {f"{name}/sft_vs_chosen{end}": f"{name}/chosen{end}" for end in INTERVAL})
    found |= _taken(results.controls, {f"true_reward/sft{end}": f"true_reward{end}" for end in INTERVAL})
    found |= dict.fromkeys([name for name in KL if not name.endswith("_share")], 0.0)
    found |= _kept(results.reference, OF_ANSWERS)
    return found


def _run_row(run: RunResult) -> Row:
    found: Row = {"run": run.name, "method": run.config["method"], "n": len(run.answers)}
    for name in ("win_rate", "true_win_rate"):
        for opponent in OPPONENTS:
            found |= _taken(run.score, {f"{name}/{opponent}{end}": f"{name}/{opponent}{end}" for end in INTERVAL})
    found |= _taken(run.score, {f"true_reward/run{end}": f"true_reward{end}" for end in INTERVAL})
    found |= _kept(run.kl, KL)
    found |= _kept(run.sampled, OF_ANSWERS)
    return found | _kept(run.final, AFTER_TRAINING)


def _taken(source: dict[str, Any], names: dict[str, str]) -> Row:
    """The values of `source` that exist, under their new names."""
    return {new: source[old] for old, new in names.items() if old in source}


def _kept(source: dict[str, Any], names: Iterable[str]) -> Row:
    """The same, under the names that they have."""
    return _taken(source, {name: name for name in names})
