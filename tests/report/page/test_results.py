"""Outputs that do not belong together must not be compared."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.methods.registry import method_names
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.results import READ_MARGINS, read_results

Runs = dict[str, dict[str, Any]]
ONLINE = {"eval_reward": 1.0}  # what the metrics of a run that learns from its own answers have


def test_parts_of_different_policies_are_refused(outputs: Callable[..., Path], runs: Runs) -> None:
    out = outputs()
    file = out / "kl/mine/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"policy_sha256": "another"}), "utf-8")
    with pytest.raises(UserError, match="out/kl/mine are of different policies; run `dvc repro`"):
        read_results(out, runs)


def test_a_tournament_of_other_runs_is_refused(outputs: Callable[..., Path], runs: Runs) -> None:
    """One that a run has left, or has not yet joined."""
    with pytest.raises(UserError, match="out/tournament ranks other policies than the runs"):
        read_results(outputs(dpo=[1.0], mine=[0.0], gone=[0.5]), runs)


def test_prompts_are_answered_so_many_times_only_if_each_is(outputs: Callable[..., Path], runs: Runs) -> None:
    """Eight answers to four prompts are not two to each where several rows of the data share a prompt."""
    out = outputs()
    file = out / "reference/samples.jsonl"
    for prompts, times in (("abcdefgh", 1), ("aabbccdd", 2), ("aaabbccd", None)):
        write_jsonl(file, [row | {"prompt_id": name} for row, name in zip(read_jsonl(file), prompts, strict=True)])
        assert read_results(out, runs).times == times


def test_answers_to_other_prompts_are_refused(outputs: Callable[..., Path], runs: Runs) -> None:
    out = outputs()
    file = out / "sample/dpo/samples.jsonl"
    write_jsonl(file, list(reversed(read_jsonl(file))))
    with pytest.raises(UserError, match="out/sample/dpo answers other prompts"):
        read_results(out, runs)


@pytest.mark.parametrize(
    ("source", "scorer", "margins", "taught"),
    [
        ("dataset", None, None, []),
        ("on_policy", None, None, ["dpo", "mine"]),
        ("on_policy", "true_reward", None, ["dpo"]),
        ("dataset", "judge", None, ["mine"]),
        ("dataset", None, "judge", ["dpo"]),
        ("dataset", None, "true_reward", []),
    ],
)
def test_the_page_names_the_pairs_trained_on_and_who_learned_from_the_judge(
    outputs: Callable[..., Path],
    tmp_path: Path,
    source: str,
    scorer: str | None,
    margins: str | None,
    taught: list[str],
) -> None:
    """`dpo` learns from pairs, by a method that reads margins where there are any; `mine` from its own answers where
    there is a scorer. 24 pairs were trained on, of the 40 that the contract kept."""
    out = outputs()
    write_json(out / "pairs/pairs.json", {"source": source, "train": 24})
    if scorer is not None:
        write_json(out / "align/metrics/mine/metrics.json", read_json(out / "align/metrics/mine/metrics.json") | ONLINE)
    runs = {"dpo": {"method": "dpo" if margins is None else "madpo"}, "mine": {"method": "epsilon_dpo"}}
    results = read_results(out, runs, scorer=scorer, margins=margins)
    assert results.taught == taught and results.teacher is None
    (tmp_path / "report").mkdir()
    write_report(results, 0, tmp_path / "report")
    page = " ".join((tmp_path / "report/report.html").read_text("utf-8").split())
    on_policy = source == "on_policy"
    pairs = f"24 {'on-policy' if on_policy else 'preference'} pairs (by hand)"
    if scorer is None:
        assert f"2 aligned policies from one SFT model, on {pairs}, each answering" in page
    else:
        both = f"1 on {pairs} and 1 on scores of its own answers"
        assert f"2 aligned policies from one SFT model, {both}, each answering" in page
    assert ("on none of these pairs but on 24 on-policy ones" in page) is on_policy
    assert ("The policies that learn from pairs were trained on none" in page) is (on_policy and scorer is not None)
    own = "<p>Trained on scores of their own answers to training prompts, and not on pairs: <code>mine</code>.</p>"
    assert (own in page) is (scorer is not None)
    named = ", ".join(f"<code>{name}</code>" for name in taught)
    assert (f"<p>{named}: trained on scores, ranks or margins of this judge, so that" in page) is bool(taught)
    assert ("ranked by this page&#39;s judge (PairRM (judge/by-hand))." in page) is on_policy
    write_json(out / "teacher/judge.json", {"source": "llm", "origin": "teacher/by-hand"})
    write_json(out / "teacher/metrics.json", {"accuracy": 0.625})
    (tmp_path / "other").mkdir()
    write_report(read_results(out, runs, scorer=scorer, margins=margins), 0, tmp_path / "other")
    page = " ".join((tmp_path / "other/report.html").read_text("utf-8").split())
    teacher = "the language model teacher/by-hand"
    said = (
        f"<p>{named}: trained on scores, ranks or margins of a teacher that judges nothing here: {teacher}. It agrees"
    )
    said += " with the labels of 62.5 % of the evaluation pairs.</p>"
    assert (said in page) is bool(taught)
    assert (f"ranked by the teacher ({teacher}), another judge." in page) is on_policy


def test_online_runs_alone_were_trained_on_no_pairs(outputs: Callable[..., Path], tmp_path: Path) -> None:
    out = outputs(mine=[1.0, 0.0])
    write_json(out / "pairs/pairs.json", {"source": "on_policy", "train": 24})
    file = out / "align/metrics/mine/metrics.json"
    write_json(file, read_json(file) | ONLINE | {"train_epoch": 0.1})
    (tmp_path / "report").mkdir()
    write_report(read_results(out, {"mine": {"method": "rloo"}}, scorer="judge"), 0, tmp_path / "report")
    page = " ".join((tmp_path / "report/report.html").read_text("utf-8").split())
    assert "SFT model, on scores of its own answers to training prompts (by hand), each answering" in page
    assert "24 on-policy" not in page


def test_the_methods_that_read_margins_are_those_that_say_so() -> None:
    classes = {name: import_module(f"epsilon_dpo.methods.{name}").METHOD for name in method_names()}
    assert {name for name, found in classes.items() if getattr(found, "needs_scores", False)} == set(READ_MARGINS)
