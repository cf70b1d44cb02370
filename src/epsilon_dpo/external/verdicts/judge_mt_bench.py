"""MT-Bench: two-turn dialogues, each turn graded from 1 to 10 (Zheng et al., arXiv 2306.05685)."""

from collections import Counter
from pathlib import Path

from epsilon_dpo.analysis.intervals.rates import standard_error
from epsilon_dpo.external.benchmarks.params import MTBenchJudge
from epsilon_dpo.external.benchmarks.questions import QUESTION_FILE, Question, read_questions
from epsilon_dpo.external.benchmarks.schemas import Row
from epsilon_dpo.external.verdicts.tool import (
    Contest,
    Verdict,
    call,
    copied,
    environment_python,
    kept_rows,
    refuse_failed,
    replace_rows,
    version,
)
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_jsonl

JUDGE_PROMPTS = "judge_prompts.jsonl"
FAILED = "$ERROR$"  # FastChat's verdict after 16 failed calls
UNREADABLE = -1  # and its grade for a verdict without one


def mt_bench_files(data: Path, judge: MTBenchJudge) -> list[Path]:
    """What the tool reads of `data`: of the reference answers, those for this judge."""
    return [data / QUESTION_FILE, data / JUDGE_PROMPTS, data / "reference_answer" / f"{judge.model}.jsonl"]


def judge_mt_bench(contest: Contest[MTBenchJudge]) -> Verdict:
    """`score` is the mean over all graded turns, `score/turn_2` over second turns, `score/math` over a category."""
    python = environment_python(contest.judge, "mt_bench")
    model = contest.judge.model
    bench = contest.work / "data" / "mt_bench"
    _, prompts, references = mt_bench_files(contest.data, contest.judge)
    copied(prompts, contest.work / "data" / JUDGE_PROMPTS)
    copied(references, bench / "reference_answer" / references.name)
    copied(contest.answers, bench / "model_answer" / f"{contest.name}.jsonl")
    verdicts = bench / "model_judgment" / f"{model}_single.jsonl"
    questions = read_questions("mt_bench", contest.data)
    kept = kept_rows(verdicts)
    rows = _graded(kept, questions)
    missing, tried = _missing(rows, questions), {(row["question_id"], row["turn"]) for row in kept}
    if len(tried) < 2 * len(questions) or len(missing) > contest.judge.most_failed:
        replace_rows(verdicts, rows)  # FastChat judges all it is given and appends, so it is given what is missing
        write_jsonl(bench / QUESTION_FILE, [question.row for question in missing])
        arguments = ["--model-list", contest.name, "--judge-model", model, "--parallel", str(contest.judge.parallel)]
        call(python, ["-m", "fastchat.llm_judge.gen_judgment", *arguments], contest)
        rows = _graded(kept_rows(verdicts), questions)
        missing = _missing(rows, questions)
    refuse_failed(len(missing), len(questions), contest)
    return Verdict(score(rows, questions), rows, version(python, "fschat"))


def score(rows: list[Row], questions: list[Question]) -> dict[str, float]:
    """Means of the grades, in [1, 10]; verdicts without a grade are left out, as by FastChat's show_result.

    `n` counts the questions with a grade and `n_asked` all, `n_missing` the turns without one.
    """
    category = {question.row["question_id"]: question.row["category"] for question in questions}
    graded = [row for row in rows if row["score"] != UNREADABLE]
    if not graded:
        raise UserError(f"none of the judge's {len(rows)} verdicts holds a grade such as [[7]].")
    groups: dict[str, list[float]] = {}
    of_question: dict[int, list[float]] = {}
    for row in graded:
        for name in ("score", f"score/turn_{row['turn']}", f"score/{category[row['question_id']]}"):
            groups.setdefault(name, []).append(row["score"])
        of_question.setdefault(row["question_id"], []).append(row["score"])
    metrics = {name: sum(grades) / len(grades) for name, grades in sorted(groups.items())}
    means = [sum(grades) / len(grades) for grades in of_question.values()]
    if len(means) > 1:
        metrics["score_se"] = standard_error(means)
    return metrics | {"n": len(of_question), "n_missing": 2 * len(questions) - len(graded), "n_asked": len(questions)}


def _graded(rows: list[Row], questions: list[Question]) -> list[Row]:
    """One row per question and turn in their order, the latest, without its time; failed calls are left out."""
    latest = {(row["question_id"], row["turn"]): row for row in rows if row["judgment"] != FAILED}
    ordered = [(question.row["question_id"], turn) for question in questions for turn in (1, 2)]
    return [{name: x for name, x in latest[key].items() if name != "tstamp"} for key in ordered if key in latest]


def _missing(rows: list[Row], questions: list[Question]) -> list[Question]:
    """Those without a verdict on both turns."""
    turns = Counter(row["question_id"] for row in rows)
    return [question for question in questions if turns[question.row["question_id"]] < 2]
