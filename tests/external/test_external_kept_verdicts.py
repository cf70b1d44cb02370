"""What a judge was paid for is kept: over failures, kills, a full disk, and whatever else changes."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import rows_of
from benchmark_server import KEY, Judge
from test_external_judges import arena_hard_environment, environment, export, judges

from epsilon_dpo.external.verdicts.judging import judge_of, verdict_on
from epsilon_dpo.external.verdicts.tool import work_folder
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_jsonl


def test_verdicts_that_were_paid_for_are_asked_for_once(
    external: Path, judge: Judge, dialogues: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that fails midway, the stage again, once more without a key, and another judge."""
    arena_hard_environment("current")
    run, file = export(dialogues, "arena_hard")
    judge.broken = "w4 w5 w6 w22"  # the third question of six, which the stand-in asks in the fourth place
    with pytest.raises(UserError, match=r"ended with code 1; .* its last line is: .*HTTPError.*400"):
        verdict_on("mine", run, judges(judge.url), file)
    judge.broken = None
    first = verdict_on("mine", run, judges(judge.url), file)
    assert len(judge.asked) == 12 + 1
    monkeypatch.delenv("OPENAI_API_KEY")
    assert verdict_on("mine", run, judges(judge.url, parallel=1), file).metrics == first.metrics
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    verdict_on("mine", run, judges(judge.url, model="gpt-4"), file)
    assert len(judge.asked) == 12 + 1 + 12


def test_verdicts_are_kept_by_what_was_judged_and_by_whom(external: Path, dialogues: Any) -> None:
    _, file = export(dialogues, "alpaca_eval")
    data, first = Path("data/alpaca_eval"), judges("http://127.0.0.1:9/v1").alpaca_eval

    def folder(**changes: Any) -> Path:
        return work_folder("mine", file, data, first.model_copy(update=changes))

    assert folder(parallel=1, environment="elsewhere") == folder()
    others = [folder(), folder(model="other"), folder(base_url="http://other/v1"), folder(length_controlled=False)]
    file.write_text(file.read_text().replace("good", "bad"))
    others.append(folder())
    (data / "df_gamed.csv").write_text("another release")
    assert len({*others, folder()}) == 6


def test_a_game_that_the_endpoint_failed_on_is_asked_for_again(external: Path, judge: Judge, dialogues: Any) -> None:
    arena_hard_environment("current")
    run, file = export(dialogues, "arena_hard")
    verdict_on("mine", run, judges(judge.url), file)
    (kept,) = Path("verdicts").rglob("model_judgment/*/mine.jsonl")
    rows = rows_of(kept)
    rows[2]["games"][1] = None
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"uid": "id9", "ga')
    assert len(verdict_on("mine", run, judges(judge.url), file).rows) == 6
    assert len(judge.asked) == 12 + 2


def test_a_line_cut_off_within_a_character_is_asked_for_again(external: Path, judge: Judge, dialogues: Any) -> None:
    arena_hard_environment("current")
    run, file = export(dialogues, "arena_hard")
    verdict_on("mine", run, judges(judge.url), file)
    (kept,) = Path("verdicts").rglob("model_judgment/*/mine.jsonl")
    whole = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(whole[:-1]) + '{"uid": "id0", "games": [{"judgment": "北'.encode()[:-1])
    assert len(verdict_on("mine", run, judges(judge.url), file).rows) == 6
    assert len(judge.asked) == 12 + 2


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file takes more than `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("benchmark", ["arena_hard", "mt_bench"])
def test_a_disk_that_is_full_costs_no_verdict(external: Path, judge: Judge, dialogues: Any, benchmark: Any) -> None:
    """The file from which a failed verdict is taken out is whole before and after; complete ones need no room."""
    arena_hard = benchmark == "arena_hard"
    arena_hard_environment("current") if arena_hard else environment("mt_bench")
    run, file = export(dialogues, benchmark)
    asked = judges(judge.url)
    work = work_folder("mine", file, run.data, judge_of(run, asked))
    if arena_hard:
        kept = work / "unknown/data/arena-hard-v0.1/model_judgment/gpt-4-1106-preview/mine.jsonl"
        game = {"score": "A>B", "judgment": "x" * 5000}
        rows: list[dict[str, Any]] = [{"uid": f"id{place}", "games": [game, game]} for place in range(6)]
        failed: dict[str, Any] = {"games": [game, None]}
    else:
        kept = work / "data/mt_bench/model_judgment/gpt-4_single.jsonl"
        turns = [{"question_id": id_, "turn": turn} for id_ in (81, 111, 141) for turn in (1, 2)]
        rows = [turn | {"score": 7, "judgment": "x" * 10000} for turn in turns]
        failed = {"judgment": "$ERROR$"}
    kept.parent.mkdir(parents=True)
    write_jsonl(kept, rows)
    with full_disk(30000):
        assert len(verdict_on("mine", run, asked, file).rows) == 6
    rows[0] |= failed
    write_jsonl(kept, rows)
    before = kept.read_bytes()
    with full_disk(30000), pytest.raises(OSError, match="File too large"):
        verdict_on("mine", run, asked, file)
    assert kept.read_bytes() == before and not judge.asked
