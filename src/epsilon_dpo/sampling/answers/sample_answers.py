"""Stages `sample` and `reference` in one call: the answers of a policy, or of all of a run's, with their metrics."""

from pathlib import Path

from epsilon_dpo.pipeline.stage.files import Row, write_json, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest
from epsilon_dpo.pipeline.stage.runs import FINAL, make_place, policy_paths
from epsilon_dpo.sampling.answers.drawing import Stream
from epsilon_dpo.sampling.answers.params import Sampler
from epsilon_dpo.sampling.answers.sampling import answer, summary


def sample_policy(
    policy: Path,
    rows: list[Row],
    params: Sampler,
    seed: int,
    threads: int,
    stream: Stream,
    out: Path,
    scratch: Path | None = None,
) -> dict[str, float]:
    """Write samples.jsonl and metrics.json of the policy in `policy` (model and tokenizer) to `out`; `scratch` as
    sampling.answer.

    Returns:
        the metrics of sampling.summary; metrics.json holds `temperature` and `policy_sha256` too, and `logits`, by
        name what else shaped the distribution, if anything did.

    Raises:
        UserError: as sampling.answer.
    """
    samples = answer(policy, rows, params, seed, threads, stream, scratch)
    metrics = summary(samples)
    facts: Row = {"temperature": params.temperature, "policy_sha256": digest(policy)}
    if shaped := params.logits.in_use():
        facts["logits"] = shaped
    write_jsonl(out / "samples.jsonl", samples)
    write_json(out / "metrics.json", {**metrics, **facts})
    return metrics


def sample_run(
    aligned: Path,
    rows: list[Row],
    params: Sampler,
    seed: int,
    threads: int,
    out: Path,
    scratch: Path | None = None,
) -> dict[str, float]:
    """`sample_policy` of every policy of the run in `aligned`, out/align/RUN, each at its place below `out`.

    Returns:
        the metrics of the final policy.
    """
    found = {
        place: sample_policy(
            aligned / place / "model", rows, params, seed, threads, "policy", make_place(out, place), scratch
        )
        for place in policy_paths(aligned)
    }
    return found[FINAL]
