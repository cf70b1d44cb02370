"""Answers side by side: the same prompt, what the data holds and what each policy says."""

from typing import Any

from epsilon_dpo.pipeline.stage.runs import CHOSEN, SFT
from epsilon_dpo.report.page.results import Results
from epsilon_dpo.report.style.signs import fixed

VERDICTS = {1.0: "beats", 0.5: "ties with", 0.0: "loses to"}
REFUSED = "not judged (refused) against"  # counted as a tie, which nobody found


def examples(results: Results, count: int) -> list[dict[str, Any]]:
    """`count` prompts spread evenly over the evaluation prompts, so that nobody's taste picks them.

    Returns:
        per prompt its `id`, `position` (from 1), `prompt` (messages) and `answers`: {"by", "text", "notes"}, the chosen
        answer first, then SFT's, then each run's with the judge's verdict.
    """
    count = min(count, results.n)
    positions = [(2 * i + 1) * results.n // (2 * count) for i in range(count)]
    return [_example(results, position) for position in positions]


def _example(results: Results, position: int) -> dict[str, Any]:
    reference = results.reference_answers[position]
    answers = [
        {"by": CHOSEN, "text": reference["chosen"], "notes": []},
        {"by": SFT, "text": reference["response"], "notes": _cut(reference)},
    ]
    for run in results.runs:
        row = run.answers[position]
        verdicts = ", ".join(f"{_verdict(run.verdicts(opponent)[row['id']])} {opponent}" for opponent in (CHOSEN, SFT))
        answers.append({"by": run.name, "text": row["response"], "notes": [verdicts, *_cut(row)]})
    if results.has_truth and results.runs:
        _add_true_rewards(results, reference["id"], answers)
    return {"id": reference["id"], "position": position + 1, "prompt": reference["prompt"], "answers": answers}


def _verdict(record: dict[str, Any]) -> str:
    return REFUSED if record["refused"] else VERDICTS[record["win"]]


def _add_true_rewards(results: Results, key: str, answers: list[dict[str, Any]]) -> None:
    """The true reward of every answer, as the judged records hold it."""
    first = results.runs[0].verdicts(CHOSEN)[key], results.runs[0].verdicts(SFT)[key]
    rewards = [first[0]["true_b"], first[1]["true_b"]]
    rewards += [run.verdicts(CHOSEN)[key]["true_a"] for run in results.runs]
    for answer, reward in zip(answers, rewards, strict=True):
        answer["notes"].append(f"true reward {fixed(reward, 2)}")


def _cut(row: dict[str, Any]) -> list[str]:
    return ["cut at max_new_tokens"] if row["finish_reason"] == "length" else []
