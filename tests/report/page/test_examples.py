"""Examples are spread evenly, and every answer is beside its own verdict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from epsilon_dpo.pipeline.stage.files import read_jsonl, write_jsonl
from epsilon_dpo.report.page.examples import examples
from epsilon_dpo.report.page.results import read_results


def test_examples_are_evenly_spread(outputs: Callable[..., Path], runs: dict[str, dict[str, Any]]) -> None:
    results = read_results(outputs(), runs)
    assert [example["position"] for example in examples(results, 2)] == [3, 7]  # of 8: the middle of each half
    assert [example["position"] for example in examples(results, 99)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert examples(results, 0) == []


def test_an_answer_has_its_own_verdict_and_reward(
    outputs: Callable[..., Path], runs: dict[str, dict[str, Any]]
) -> None:
    results = read_results(outputs(dpo=[1.0, 0.5, 0.0], mine=[0.0, 1.0, 1.0]), runs)
    shown = examples(results, 3)
    assert [answer["by"] for answer in shown[1]["answers"]] == ["chosen", "sft", "dpo", "mine"]
    assert [example["answers"][2]["notes"][0] for example in shown] == [
        "beats chosen, loses to sft",
        "ties with chosen, ties with sft",
        "loses to chosen, beats sft",
    ]
    assert [answer["notes"][-1] for answer in shown[0]["answers"]] == [
        "true reward −0.25",
        "true reward 0.50",
        "true reward 1.50",
        "true reward 1.50",
    ]


def test_an_answer_that_was_cut_says_so(outputs: Callable[..., Path], runs: dict[str, dict[str, Any]]) -> None:
    """The run's to the first prompt, SFT's to the second."""
    out = outputs(truth=False, dpo=[1.0, 0.0])
    for folder, number in (("sample/dpo", 0), ("reference", 1)):
        rows = read_jsonl(out / folder / "samples.jsonl")
        rows[number]["finish_reason"] = "length"
        write_jsonl(out / folder / "samples.jsonl", rows)
    shown = examples(read_results(out, {"dpo": runs["dpo"]}), 2)
    cut = "cut at max_new_tokens"
    assert [[answer["notes"] for answer in example["answers"]] for example in shown] == [
        [[], [], ["beats chosen, loses to sft", cut]],
        [[], [cut], ["loses to chosen, beats sft"]],
    ]


def test_a_refusal_is_no_tie(outputs: Callable[..., Path], runs: dict[str, dict[str, Any]]) -> None:
    """Its record holds a half, as that of a tie."""
    out = outputs(dpo=[0.5], mine=[0.5])
    file = out / "score/dpo/records.jsonl"
    write_jsonl(file, [row | {"refused": row["opponent"] == "sft"} for row in read_jsonl(file)])
    (shown,) = examples(read_results(out, runs), 1)
    assert [answer["notes"][0] for answer in shown["answers"][2:]] == [
        "ties with chosen, not judged (refused) against sft",
        "ties with chosen, ties with sft",
    ]
