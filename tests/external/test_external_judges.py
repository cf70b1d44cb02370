"""From an exported file to scores: Arena-Hard through a stand-in for its script, the others by what they leave behind.

The real AlpacaEval and FastChat are in test_external_tools.py.
"""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import openai
import pytest
from benchmark_files import write_arena_hard
from benchmark_server import KEY, Judge, label

from epsilon_dpo.external.benchmarks.params import Export, Judges, Run
from epsilon_dpo.external.export.formats import answer_file, write_answers
from epsilon_dpo.external.verdicts import judge_alpaca_eval, judge_mt_bench
from epsilon_dpo.external.verdicts.judge_alpaca_eval import alpaca_eval_files
from epsilon_dpo.external.verdicts.judge_arena_hard import score
from epsilon_dpo.external.verdicts.judging import verdict_on
from epsilon_dpo.external.verdicts.tool import Contest, alone, call, work_folder
from epsilon_dpo.judging.judges import llm_endpoint
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_json
from epsilon_dpo.pipeline.stage.params import parse, read_yaml

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (
    "<|The Start of Assistant A's Answer|>{%s}<|The End of Assistant A's Answer|>"
    "<|The Start of Assistant B's Answer|>{%s}<|The End of Assistant B's Answer|> to {%s}"
)
SETTINGS = {
    "current": {
        "bench_name": "arena-hard-v0.1",
        "judge_model": "somebody",
        "reference": None,
        "model_list": [],
        "regex_patterns": [r"\[\[([AB<>=]+)\]\]"],
        "prompt_template": TEMPLATE % ("ANSWER_A", "ANSWER_B", "QUESTION"),
    },
    "2024": {
        "bench_name": "arena-hard-v0.1",
        "judge_model": "somebody",
        "pairwise": True,
        "system_prompt": "Judge.",
        "model_list": [],
        "regex_pattern": r"\[\[([AB<>=]+)\]\]",
        "prompt_template": [TEMPLATE % ("answer_1", "answer_2", "question_1")],
    },
}


HOLDS = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print('.', flush=True); time.sleep(60)"


def judges(url: str, benchmark: str = "arena_hard", **changes: Any) -> Judges:
    """Those of external/params.yaml, all at `url`, with `changes` for one benchmark."""
    content = read_yaml(ROOT / "external" / "params.yaml")["judge"]
    for name, config in content.items():
        config |= {"base_url": url} | (changes if name == benchmark else {})
    return parse(Judges, content)


def environment(name: str) -> Path:
    """An environment whose Python is this one."""
    python = Path("environments") / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return python.parents[1]


def arena_hard_environment(version: str) -> None:
    checkout = environment("arena_hard") / "arena-hard-auto"
    checkout.mkdir()
    shutil.copy(Path(__file__).with_name("arena_hard_stub.py"), checkout / "gen_judgment.py")
    (checkout / "config").mkdir()
    write_json(checkout / "config" / "arena-hard-v0.1.yaml", SETTINGS[version])


def export(dialogues: Any, benchmark: Any, version: Any = "current") -> tuple[Run, Path]:
    run = Run(policy="sft", benchmark=benchmark)
    write_answers("mine", run, *dialogues(benchmark), Export(arena_hard_format=version), Path("out/export/mine"))
    return run, answer_file("mine", run, Path("out/export/mine"))


@pytest.mark.parametrize("version", ["current", "2024"])
def test_arena_hard_from_the_answers_to_the_score(external: Path, judge: Judge, dialogues: Any, version: str) -> None:
    """Both formats end to end, against the label and the weight of each game worked out here."""
    write_arena_hard(Path("data/arena_hard"), of_2024=version == "2024")
    arena_hard_environment(version)
    run, file = export(dialogues, "arena_hard", version)
    verdict = verdict_on("mine", run, judges(judge.url), file)
    won, weight = 0.0, 0
    for place in range(6):
        mine, baseline = " ".join(["good"] * (place % 4)), "good w1" if place % 2 else "w1"
        points = {"A>>B": [1, 1, 1], "A>B": [1], "A=B": [0.5], "B>A": [0], "B>>A": [0, 0, 0]}[label(mine, baseline)]
        won, weight = won + 2 * sum(points), weight + 2 * len(points)  # the label is the same in both orders
    assert verdict.metrics["win_rate"] == pytest.approx(100 * won / weight) and 50 < verdict.metrics["win_rate"] < 100
    assert (verdict.metrics["n"], verdict.metrics["n_missing"]) == (6, 0)
    assert [row.get("uid", row.get("question_id")) for row in verdict.rows] == [f"id{place}" for place in range(6)]
    assert len(judge.asked) == 12 and {request["model"] for request in judge.asked} == {"gpt-4-1106-preview"}
    assert verdict.tool.startswith("arena-hard-auto copy-")
    assert KEY not in "".join(path.read_text() for path in Path("verdicts").rglob("*") if path.is_file())


def games(*labels: str | None) -> dict[str, Any]:
    return {"games": [{"score": label} for label in labels]}


def test_arena_hard_points() -> None:
    """The model is B in the first game and A in the second; two signs weigh three; a lost label drops its question.

    Points of the three complete questions: 1 and 1, 1/2 and 0, three times 0 and 1: 3.5 of 8.
    """
    rows = [
        games("A<B", "A>B"),
        games("A=B", "B>A"),
        games("A>>B", "B<A"),
        games(None, "A>B"),
        games("B>A", "nonsense"),
    ]
    found = score(rows)
    assert found["win_rate"] == pytest.approx(100 * 3.5 / 8)
    assert (found["n"], found["n_missing"], found["n_asked"]) == (3, 2, 5)
    residuals = [2 - 2 * 3.5 / 8, 0.5 - 2 * 3.5 / 8, 1 - 4 * 3.5 / 8]
    assert found["win_rate_se"] == pytest.approx(100 * (sum(x * x for x in residuals) * 3 / 2) ** 0.5 / 8)
    with pytest.raises(UserError, match=r"none of the judge's verdicts on 1 questions"):
        score([games(None, None)])


def test_arena_hard_points_of_2024() -> None:
    """A lost label drops its game alone, and so does one that the show_result.py of that time does not know.

    Points: 1 and 1; of the second question three times 1 (its second game); of the third 1/2 (its first): 5.5 of 6.
    """
    rows = [games("B>A", "A>B"), games(None, "A>>B"), games("A=B", "B=A"), games(None, "A<<B")]
    found = score([{"question_id": "a"} | row for row in rows])
    assert found["win_rate"] == pytest.approx(100 * 5.5 / 6)
    assert (found["n"], found["n_missing"]) == (3, 1)
    assert score(rows)["win_rate"] == pytest.approx(100 * 3.0 / 4)  # today: questions 1 and 3


def test_mt_bench_grades(external: Path, dialogues: Any) -> None:
    """Means over turns, over first turns, over a category; a verdict without a grade is counted and left out."""
    questions, _ = dialogues("mt_bench")
    rows = [
        {"question_id": id_, "turn": turn, "score": grade}
        for id_, turn, grade in [(81, 1, 8), (81, 2, 5), (111, 1, 2.5), (111, 2, -1), (141, 1, 6), (141, 2, 7)]
    ]
    found = judge_mt_bench.score(rows, questions)
    assert found["score"] == pytest.approx(28.5 / 5)
    assert (found["score/turn_1"], found["score/turn_2"], found["score/math"]) == (5.5, 6.0, 2.5)
    assert (found["n"], found["n_missing"]) == (3, 1)
    means = [6.5, 2.5, 6.5]
    spread = sum((mean - sum(means) / 3) ** 2 for mean in means) / 2
    assert found["score_se"] == pytest.approx((spread / 3) ** 0.5)
    with pytest.raises(UserError, match="none of the judge's 1 verdicts holds a grade"):
        judge_mt_bench.score(rows[3:4], questions)


def test_alpaca_eval_results_without_a_verdict_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations.json", [{"instruction": "a", "preference": None}])
    with pytest.raises(UserError, match=r"none of the judge's 1 answers holds log-probs .* top_logprobs"):
        judge_alpaca_eval.read_results(tmp_path, "alpaca-eval")


def test_alpaca_eval_rates_stand_with_their_own_errors(tmp_path: Path) -> None:
    """By the columns of the tool's leaderboard."""
    verdicts = [("a", 1.25), ("b", None), ("c", 2.0)]
    write_json(tmp_path / "annotations.json", [{"instruction": of, "preference": said} for of, said in verdicts])
    board = {"": "mine", "win_rate": 31.25, "standard_error": 1.5, "n_total": 2, "discrete_win_rate": 30.0}
    board |= {"mode": "community", "avg_length": 900, "length_controlled_winrate": 41.5, "lc_standard_error": 0.25}
    (tmp_path / "leaderboard.csv").write_text(f"{','.join(board)}\n{','.join(map(str, board.values()))}\n")
    assert judge_alpaca_eval.read_results(tmp_path, "alpaca-eval").metrics == {
        "win_rate": 31.25,
        "win_rate_se": 1.5,
        "discrete_win_rate": 30.0,
        "lc_win_rate": 41.5,
        "lc_win_rate_se": 0.25,
        "mean_characters": 900.0,
        "n": 2,
        "n_missing": 1,
        "n_asked": 3,
    }


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What it defines; it runs in the environment of alpaca_eval, which is here but for its names."""
    names = ("", ".annotators", ".constants", ".decoders", ".decoders.openai", ".metrics", ".metrics.glm_winrate")
    modules = {f"alpaca_eval{name}": ModuleType(f"alpaca_eval{name}") for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    modules["alpaca_eval.annotators"].PairwiseAnnotator = object  # type: ignore[attr-defined]
    return runpy.run_path(str(judge_alpaca_eval.DRIVER))


@pytest.fixture
def forgiving(driver: dict[str, Any]) -> Any:
    return driver["forgiving"]


def test_a_judge_without_log_probs_is_not_paid_for_all_questions(forgiving: Any) -> None:
    ask = forgiving(lambda batch: [{"text": "m", "logprobs": None}], [])
    for _ in range(9):
        ask(([],))
    with pytest.raises(ValueError, match="none of the judge's first 10 answers holds log-probs"):
        ask(([],))
    some = iter([{"content": []}, *[None] * 30])
    ask = forgiving(lambda batch: [{"text": "m", "logprobs": next(some)}], [])
    assert all(ask(([],)) for _ in range(20))


def test_a_question_at_which_ten_tries_met_a_limit_of_rate_has_failed(forgiving: Any) -> None:
    """The tool raises nothing then, and gives an empty text in the place of the judge's."""
    texts, failed = ["m", "", "M", ""], []
    ask = forgiving(lambda batch: [{"text": batch[0][0], "logprobs": {"content": []}}], failed)
    assert [ask(([text],))[0]["text"] for text in texts] == texts
    assert len(failed) == 2


def test_refused_questions_alone_are_no_wrong_settings_where_verdicts_are_kept(forgiving: Any) -> None:
    """As in the run after most_failed was set: it asks for these only, and each is refused again."""
    response = httpx2.Response(400, request=httpx2.Request("POST", "http://judge"))

    def refuse(batch: Any) -> Any:
        raise openai.BadRequestError("no", response=response, body=None)

    failed: list[str] = []
    ask = forgiving(refuse, failed, [{"preference": 1.2}])
    assert [ask(([1],))[0]["text"] for _ in range(12)] == [""] * 12 and len(failed) == 12
    with pytest.raises(openai.BadRequestError):
        ask = forgiving(refuse, [])
        for _ in range(12):
            ask(([1],))


def test_a_judge_that_the_key_may_not_ask_ends_all_and_a_flagged_question_does_not(forgiving: Any) -> None:
    """Both have the code 403, and verdicts of earlier runs are kept."""

    def ask(error: Any) -> Any:
        def refuse(batch: Any) -> Any:
            raise denied(error)

        return forgiving(refuse, [], [{"preference": 1.2}])

    for said in ("This key may not use gpt-4.", "Your account has been flagged."):
        with pytest.raises(openai.PermissionDeniedError):
            ask({"message": said})(([1],))
    for error in ({"message": "Your input was Flagged."}, "Content violates usage guidelines. Team: t"):
        assert ask(error)(([1],))[0]["text"] == ""


def denied(error: Any) -> openai.APIStatusError:
    """The client's exception of a 403 with this error."""
    response = httpx2.Response(403, json={"error": error}, request=httpx2.Request("POST", "http://judge"))
    return openai.OpenAI(api_key="key")._make_status_error_from_response(response)


def test_a_403_is_of_one_question_here_where_it_is_for_stage_judge(driver: dict[str, Any]) -> None:
    """The driver cannot import the stage's list, and has its own."""
    phrases = {*driver["FLAGGING"], *llm_endpoint.FLAGGING}
    types = {*driver["FLAGGED"], *llm_endpoint.FLAGGED}
    flagged = [
        *phrases,
        *({"message": f"Refused: {phrase.capitalize()}."} for phrase in phrases),
        *({"message": "Provider returned error", "metadata": {"raw": phrase}} for phrase in phrases),
        *({"message": "Blocked.", "metadata": {"error_type": one}} for one in types),
        {"message": "Refused.", "metadata": {"reasons": ["violence"], "flagged_input": "why"}},
    ]
    of_the_account = [
        "forbidden",
        None,
        {"message": "Your account has been flagged.", "metadata": None},
        {"message": "The flagged parameter is unknown.", "code": "content_filter", "type": ["x"]},
        {"message": "This key may not use gpt-4.", "metadata": {"error_type": "permission_denied", "raw": None}},
    ]
    for error in (*flagged, *of_the_account):
        found = denied(error)
        assert driver["is_flagged"](found.body) == llm_endpoint._is_flagged(found) == (error in flagged), error


@pytest.mark.parametrize("length_controlled", [True, False])
def test_a_verdict_that_could_not_be_read_is_asked_for_again(
    driver: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length_controlled: bool
) -> None:
    """It is taken out of the tool's cache, which has None or -1 for it; and the rate is the one that was asked for."""
    tool, work, config = sys.modules["alpaca_eval"], tmp_path / "work", tmp_path / "weighted_alpaca_eval_gpt4_turbo"
    for folder in (work, config):
        folder.mkdir()
    entry = {"prompt_template": "prompt.txt", "completions_kwargs": {}}
    write_json(config / "configs.yaml", {config.name: entry})
    write_json(tmp_path / "outputs.json", [])
    verdicts = [{"instruction": str(n), "preference": said} for n, said in enumerate((1.25, None, -1, 2.0))]
    write_json(work / "annotations_cache.json", verdicts)
    found: list[Any] = []

    def evaluate(caching_path: Path, fn_metric: str, **_: Any) -> None:
        found.extend([read_json(caching_path), fn_metric])

    monkeypatch.setattr(tool, "evaluate", evaluate, raising=False)
    monkeypatch.setattr(tool.constants, "EVALUATORS_CONFIG_DIR", tmp_path, raising=False)
    monkeypatch.setattr(tool.decoders.openai, "_openai_completion_helper", evaluate, raising=False)
    outputs = dict.fromkeys(("model_outputs", "reference_outputs"), str(tmp_path / "outputs.json"))
    settings = {"work": str(work), "df_gamed": "df_gamed.csv" if length_controlled else None, "model": "gpt-4"}
    driver["main"]({"name": "mine", **settings, **outputs})
    rate = "get_length_controlled_winrate" if length_controlled else "get_winrate"
    assert found == [[verdicts[0], verdicts[3]], rate] and read_json(work / "failed.json") == []


def test_length_control_needs_the_official_instructions(external: Path, judge: Judge, dialogues: Any) -> None:
    environment("alpaca_eval")
    path = Path("data/alpaca_eval/df_gamed.csv")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ",9," not in line))
    run, file = export(dialogues, "alpaca_eval")
    with pytest.raises(UserError, match=r"difficulties of 9 instructions and .* has 10 instructions; .* to false"):
        verdict_on("mine", run, judges(judge.url), file)
    path.unlink()
    with pytest.raises(UserError, match=r"^external/data/alpaca_eval/df_gamed.csv does not exist; docs/external.md"):
        verdict_on("mine", run, judges(judge.url), file)


@pytest.mark.parametrize(
    "content", ["version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "<html>\n<p>\n", "index,x\n,1\n"]
)
def test_difficulties_that_are_no_table_are_one_sentence(
    external: Path, judge: Judge, dialogues: Any, content: str
) -> None:
    environment("alpaca_eval")
    Path("data/alpaca_eval/df_gamed.csv").write_text(content)
    run, file = export(dialogues, "alpaca_eval")
    with pytest.raises(UserError, match=r"^external/data/alpaca_eval/df_gamed.csv is no table with a column index; do"):
        verdict_on("mine", run, judges(judge.url), file)


@pytest.mark.parametrize("benchmark", ["alpaca_eval", "arena_hard", "mt_bench"])
def test_a_missing_environment_is_one_sentence(external: Path, judge: Judge, dialogues: Any, benchmark: str) -> None:
    run, file = export(dialogues, benchmark)
    with pytest.raises(UserError, match=f"holds no environment; make it with `bash .*make_environment.sh {benchmark}`"):
        verdict_on("mine", run, judges(judge.url), file)


def test_a_judge_out_of_reach_is_one_sentence(
    external: Path, judge: Judge, dialogues: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server, a wrong key, no key: refused before the tool starts, which would retry for an hour."""
    arena_hard_environment("current")
    run, file = export(dialogues, "arena_hard")
    with pytest.raises(UserError, match=r"^The judge at http://127.0.0.1:9/v1 does not answer \(.*refused\); start it"):
        verdict_on("mine", run, judges("http://127.0.0.1:9/v1"), file)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with pytest.raises(UserError, match=r"refuses the key in OPENAI_API_KEY \(401\); export the right one.$"):
        verdict_on("mine", run, judges(judge.url), file)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match=r"^OPENAI_API_KEY is not set; export the key of http"):
        verdict_on("mine", run, judges(judge.url), file)
    assert not judge.asked


@contextmanager
def another_tool(work: Path) -> Iterator[None]:
    """That of a stage that was killed, which lives on and holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, work / "tool.lock"], stdout=subprocess.PIPE) as holds:
        assert holds.stdout is not None and holds.stdout.read(1) == b"."
        yield
        holds.kill()


def test_two_tools_at_once_would_pay_twice(tmp_path: Path, judge: Judge) -> None:
    with another_tool(tmp_path), pytest.raises(UserError, match=r"the tool of an earlier run still asks the judge in "):
        alone(tmp_path).__enter__()
    with alone(tmp_path) as lock:
        contest = Contest("m", tmp_path / "answers", tmp_path, judges(judge.url).mt_bench, tmp_path, lock)
        holds = "import fcntl; fcntl.flock(open('tool.lock', 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        with pytest.raises(UserError, match="BlockingIOError"):
            call(Path(sys.executable), ["-c", holds], contest)


def test_verdicts_that_another_tool_is_writing_are_let_alone(external: Path, judge: Judge, dialogues: Any) -> None:
    """The stage wrote the file anew without the row of which it had read a half: it was paid for and lost."""
    arena_hard_environment("current")
    run, file = export(dialogues, "arena_hard")
    verdict_on("mine", run, judges(judge.url), file)
    [verdicts] = Path("verdicts").rglob("model_judgment/*/mine.jsonl")
    there = verdicts.read_bytes()[:-40]  # the last row is not written to its end
    verdicts.write_bytes(there)
    [work] = Path("verdicts").iterdir()
    with another_tool(work), pytest.raises(UserError, match=r"still asks the judge in .*; wait until it ends"):
        verdict_on("mine", run, judges(judge.url), file)
    assert verdicts.read_bytes() == there
    asked = len(judge.asked)
    assert verdict_on("mine", run, judges(judge.url), file).metrics["n"] == 6 and len(judge.asked) == asked + 2


def test_a_checkout_without_the_settings_is_named(external: Path, judge: Judge, dialogues: Any) -> None:
    arena_hard_environment("current")
    os.unlink("environments/arena_hard/arena-hard-auto/config/arena-hard-v0.1.yaml")
    run, file = export(dialogues, "arena_hard")
    with pytest.raises(UserError, match=r"holds no config/arena-hard-v0.1.yaml; make the environment again or fix"):
        verdict_on("mine", run, judges(judge.url), file)


def test_a_judge_that_fastchat_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"mt_bench.model = 'mine' is refused: input should be 'gpt-3.5-turbo'"):
        judges("http://127.0.0.1:9/v1", "mt_bench", model="mine")


def test_alpaca_eval_results_that_a_crash_cut_off_are_written_anew(
    external: Path, dialogues: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool is called again, which has all verdicts in its cache."""
    environment("alpaca_eval")
    run, file = export(dialogues, "alpaca_eval")
    asked = judges("http://127.0.0.1:9/v1")
    work = work_folder("mine", file, alpaca_eval_files(run.data, asked.alpaca_eval), asked.alpaca_eval)
    (work / "annotations.json").write_text('[{"instruction": "a", "preference": 1.5}, {"instr')

    def call(*_: Any) -> None:
        write_json(work / "annotations.json", [{"instruction": "a", "preference": 1.5}])
        (work / "leaderboard.csv").write_text("win_rate,avg_length\n50.0,3\n")
        write_json(work / "failed.json", [])

    monkeypatch.setattr(judge_alpaca_eval, "call", call)
    assert verdict_on("mine", run, asked, file).metrics["win_rate"] == 50.0
