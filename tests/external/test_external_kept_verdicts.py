"""What a judge was paid for is kept: over failures, kills, a full disk, and whatever else changes."""

import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import rows_of
from benchmark_server import KEY, Judge
from test_external_judges import arena_hard_environment, environment, export, judges

from epsilon_dpo.external.benchmarks.params import Run
from epsilon_dpo.external.export.formats import answer_file
from epsilon_dpo.external.verdicts import judging
from epsilon_dpo.external.verdicts.judge_arena_hard import version_of
from epsilon_dpo.external.verdicts.judging import verdict_on
from epsilon_dpo.external.verdicts.tool import Contest
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


@pytest.fixture
def folder(external: Path, judge: Judge, dialogues: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The folder in which the tool of a benchmark works, with changes of its judge."""

    def work(benchmark: Any, **changes: Any) -> Path:
        found: list[Contest[Any]] = []
        run = Run(policy="sft", benchmark=benchmark)
        file = answer_file("mine", run, Path("out/export/mine"))
        if not file.exists():
            export(dialogues, benchmark)
        with monkeypatch.context() as patched:
            patched.setattr(judging, f"judge_{benchmark}", found.append)
            verdict_on("mine", run, judges(judge.url, benchmark, **changes), file)
        return found[0].work

    return work


def test_verdicts_are_kept_by_what_was_judged_and_by_whom(folder: Callable[..., Path], judge: Judge) -> None:
    first = folder("alpaca_eval")
    assert folder("alpaca_eval", parallel=1, environment="elsewhere") == first
    assert folder("mt_bench", most_failed=1) == folder("mt_bench")
    assert folder("alpaca_eval", base_url=f"{judge.url}/") == first
    changes: list[dict[str, Any]] = [{"model": "x"}, {"base_url": "http://other/v1"}, {"length_controlled": False}]
    others = [folder("alpaca_eval", **change) for change in changes]
    file = Path("out/export/mine/model_outputs.json")
    file.write_text(file.read_text().replace("good", "bad"))
    assert len({first, *others, folder("alpaca_eval")}) == 5


FILES = {
    "alpaca_eval": ["alpaca_eval_gpt4_baseline.json", "df_gamed.csv"],
    "arena_hard": ["question.jsonl", "model_answer/gpt-4-0314.jsonl"],
    "mt_bench": ["question.jsonl", "judge_prompts.jsonl", "reference_answer/gpt-4.jsonl"],
}


@pytest.mark.parametrize("benchmark", FILES)
def test_only_what_the_tool_reads_of_the_data_decides_where_verdicts_are_kept(
    folder: Callable[..., Path], benchmark: str
) -> None:
    """Not what a file manager leaves there, and not the reference answers for another judge."""
    data, first = Path("data") / benchmark, folder(benchmark)
    (data / ".DS_Store").write_text("x")
    (data / "reference_answer").mkdir(exist_ok=True)
    (data / "reference_answer" / "gpt-4-1106-preview.jsonl").write_text("better ones")
    assert folder(benchmark) == first
    found = {first}
    for name in FILES[benchmark]:
        (data / name).write_text((data / name).read_text() + " ")
        found.add(folder(benchmark))
    assert len(found) == 1 + len(FILES[benchmark])


def test_a_game_that_the_endpoint_failed_on_is_asked_for_again(external: Path, judge: Judge, dialogues: Any) -> None:
    arena_hard_environment("current")
    run, file = export(dialogues, "arena_hard")
    verdict_on("mine", run, judges(judge.url), file)
    (kept,) = Path("verdicts").rglob("model_judgment/*/mine.jsonl")
    rows = rows_of(kept)
    rows[2]["games"][1] = None
    rows[3]["games"][0] = {"score": None, "judgment": "\n$ERROR$\n$ERROR$"}
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"uid": "id9", "ga')
    assert len(verdict_on("mine", run, judges(judge.url), file).rows) == 6
    assert len(judge.asked) == 12 + 4


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


def version_of_the_checkout() -> str:
    return version_of(Path("environments/arena_hard/arena-hard-auto"), "config/arena-hard-v0.1.yaml")


def commit_all(folder: Path) -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("config", "core.abbrev", "12")
    git("add", "-f", ".")
    git("commit", "-qm", "a", "--allow-empty")
    return git("rev-parse", "HEAD")


def test_the_version_of_a_copy_of_arena_hard_is_not_the_commit_of_the_project_around_it(external: Path) -> None:
    """A commit of which would be paid for; the copy's own content decides, and a checkout's first seven characters."""
    arena_hard_environment("current")
    checkout = Path("environments/arena_hard/arena-hard-auto")
    first = version_of_the_checkout()
    commit_all(external)
    (checkout / "utils").mkdir()
    (checkout / "utils" / "judge.pyc").write_text("what a call leaves there")
    assert version_of_the_checkout() == first
    (checkout / "utils" / "judge.py").write_text("another prompt")
    assert version_of_the_checkout() != first
    commit = commit_all(checkout)
    assert version_of_the_checkout() == commit[:7]
    (checkout / "utils" / "judge.pyc").write_text("what another call leaves there")
    assert version_of_the_checkout() == commit[:7]


@pytest.mark.parametrize("tracked", [True, False], ids=["edited", "ignored by git"])
def test_settings_that_are_in_no_commit_are_another_version(external: Path, tracked: bool) -> None:
    """Verdicts by another prompt would pass for theirs."""
    arena_hard_environment("current")
    checkout = Path("environments/arena_hard/arena-hard-auto")
    settings = checkout / "config" / "arena-hard-v0.1.yaml"
    content = settings.read_text()
    if not tracked:
        settings.unlink()
        (checkout / ".gitignore").write_text("/config\n")
    commit_all(checkout)
    settings.parent.mkdir(exist_ok=True)
    found = set()
    for end in (" ", "  "):
        settings.write_text(content + end)
        found.add(version_of_the_checkout())
    assert len(found) == 2 and all(version.startswith("copy-") for version in found)


@pytest.mark.parametrize("benchmark", ["arena_hard", "mt_bench"])
def test_so_many_questions_as_declared_may_be_refused_for_ever(
    external: Path, judge: Judge, dialogues: Any, monkeypatch: pytest.MonkeyPatch, benchmark: Any
) -> None:
    """A rerun does not pay for them again, and questions that were never asked are no refused ones."""
    arena_hard_environment("current") if benchmark == "arena_hard" else environment(benchmark)
    run, file = export(dialogues, benchmark)
    calls: list[int] = []

    def call(_python: Path, _arguments: list[str], contest: Contest[Any]) -> None:
        """The tool, whose endpoint refuses the last question's second turn or game."""
        calls.append(1)
        if benchmark == "arena_hard":
            game = {"score": "A>B", "judgment": "x"}
            rows: list[Any] = [
                {"uid": f"id{place}", "games": [game, game if place < 5 else None]} for place in range(6)
            ]
            kept = contest.work / "data/arena-hard-v0.1/model_judgment/gpt-4-1106-preview/mine.jsonl"
        else:
            turns = [{"question_id": id_, "turn": turn, "score": 7} for id_ in (81, 111, 141) for turn in (1, 2)]
            rows = [turn | {"judgment": "$ERROR$" if turn == turns[-1] else "x"} for turn in turns]
            kept = contest.work / "data/mt_bench/model_judgment/gpt-4_single.jsonl"
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(kept, rows)

    monkeypatch.setattr(f"epsilon_dpo.external.verdicts.judge_{benchmark}.call", call)
    with pytest.raises(UserError, match=rf"failed on 1 of \d questions, .* with judge.{benchmark}.most_failed = 1 in"):
        verdict_on("mine", run, judges(judge.url), file)
    found = verdict_on("mine", run, judges(judge.url, benchmark, most_failed=1), file)
    assert len(calls) == 1 and found.metrics["n_missing"] == 1
    assert found.metrics["n_asked"] == (6 if benchmark == "arena_hard" else 3)
    shutil.rmtree("verdicts")
    verdict_on("mine", run, judges(judge.url, benchmark, most_failed=9), file)
    assert len(calls) == 2


@pytest.mark.parametrize("benchmark", ["arena_hard", "mt_bench"])
def test_a_disk_that_is_full_costs_no_verdict(
    folder: Callable[..., Path], judge: Judge, dialogues: Any, benchmark: Any
) -> None:
    """The file from which a failed verdict is taken out is whole before and after; complete ones need no room."""
    arena_hard = benchmark == "arena_hard"
    arena_hard_environment("current") if arena_hard else environment("mt_bench")
    work = folder(benchmark)
    run, file = export(dialogues, benchmark)
    asked = judges(judge.url)
    if arena_hard:
        kept = work / version_of_the_checkout() / "data/arena-hard-v0.1/model_judgment/gpt-4-1106-preview/mine.jsonl"
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
