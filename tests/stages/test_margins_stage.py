"""The stage margins on files: empty by default, for which nothing is loaded, and scores where they are asked for."""

import runpy
from pathlib import Path

import pytest
from untracked import Untracked, run_untracked

from epsilon_dpo.judging.judges.interface import Question, Verdict
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl, write_json, write_jsonl
from epsilon_dpo.training.alignment.pair_data import PairData

ROOT = Path(__file__).resolve().parents[2]
PROMPT = [{"role": "user", "content": "Tell me about the Moon."}]
FACT, FALSE = "The Moon orbits the Earth.", "The Moon orbits Mars."


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve training and four evaluation pairs of the generated world; one label in four is the wrong way round."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in ("validate", "pairs", "teacher"):
        (tmp_path / "out" / folder).mkdir(parents=True)
    for split, count in (("train", 12), ("eval", 4)):
        rows = []
        for number in range(count):
            chosen, rejected = (FACT, FALSE) if number % 4 else (FALSE, FACT)
            sides = {"chosen": chosen, "rejected": rejected}
            texts = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
            rows.append({"id": f"{split}/{number}", "prompt": PROMPT, **texts})
        write_jsonl(tmp_path / "out" / "validate" / f"{split}.jsonl", rows)
        ids = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}
        write_jsonl(tmp_path / "out" / "pairs" / f"{split}.jsonl", [{"id": row["id"], **ids} for row in rows])
    write_json(tmp_path / "out" / "pairs" / "pairs.json", {"source": "dataset"})
    write_json(tmp_path / "out" / "validate" / "dataset.json", {"true_reward": True})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch)
    return tmp_path


def run(project: Path, block: str) -> Path:
    """`python -m stages.margins` in this process."""
    (project / "params.yaml").write_text(f"threads: 1\nmargins: {block}\n", "utf-8")
    runpy.run_module("stages.margins", run_name="__main__")
    return project / "out" / "margins"


def test_by_default_both_files_are_empty_and_a_method_that_needs_scores_is_refused(project: Path) -> None:
    out = run(project, "null")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {"train.jsonl": b"", "eval.jsonl": b""}
    with pytest.raises(UserError, match="set margins:"):
        PairData.read(project / "out/pairs/train.jsonl", margins=out / "train.jsonl")


def test_the_true_rewards_are_scaled_by_the_held_out_labels_and_joined(project: Path) -> None:
    """Rewards 1.5 and -1, 2.5 apart, and three labels in four agree: R is ± log 3."""
    out = run(project, "{source: true_reward, temperature: null}")
    metrics = read_json(out / "metrics.json")
    assert metrics["temperature"] == pytest.approx(2.2755980666)  # 2.5 / log 3
    assert metrics["train/accuracy"] == metrics["eval/accuracy"] == 0.75
    data = PairData.read(project / "out/pairs/train.jsonl", margins=out / "train.jsonl")
    apart = [row["chosen_score"] - row["rejected_score"] for row in data.rows]
    assert apart[:2] == pytest.approx([-1.0986122887, 1.0986122887])
    stated = run(project, "{source: true_reward, temperature: 1.0}")
    assert read_jsonl(stated / "eval.jsonl")[1] == {"id": "eval/1", "chosen_score": 1.5, "rejected_score": -1.0}


class Judge:
    """The longer answer is better by a nat per character; to the first question it says nothing."""

    def __init__(self, price: float) -> None:
        self.price, self.asked = price, 0

    def compare(self, questions: list[Question]) -> list[Verdict]:
        first, self.asked = self.asked == 0, self.asked + len(questions)
        apart = [float(len(question.a) - len(question.b)) for question in questions]
        verdicts = [Verdict(margin, -margin, 1, 1) for margin in apart]
        return [Verdict(0.0, 0.0, 1, 1, refused=True), *verdicts[1:]] if first else verdicts

    def usage(self) -> dict[str, float]:
        return {"judge/usd": self.asked * self.price}


class Recorder(Untracked):
    """In the place of the MLflow run: every number that it gets."""

    logged: dict[str, float]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        Recorder.logged = metrics


def test_what_a_judge_cost_is_tracked_and_no_part_of_what_runs_are_trained_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another price, or a verdict from a cache, would train them again. 12 training and 4 evaluation pairs, of 26
    and 21 characters; a half of the logit of 10 or -10 is the margin, and of that a half the score."""
    run_untracked(monkeypatch, Recorder)
    set_up: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "epsilon_dpo.pipeline.stage.runtime.set_up", lambda seed, threads: set_up.append((seed, threads))
    )
    made = []
    for price in (0.5, 0.25):
        judge = Judge(price)
        monkeypatch.setattr("epsilon_dpo.judging.judges.loading.load_judge", lambda folder, journal, judge=judge: judge)
        out = run(project, "{source: judge, temperature: 1.0}")
        made.append({file.name: file.read_bytes() for file in out.iterdir()})
        assert Recorder.logged["judge/usd"] == 16 * price
        assert read_json(project / "out/margins_usage/usage.json") == {"judge/usd": 16 * price}
        assert Recorder.logged["train/refused_share"] == pytest.approx(1 / 12)
        assert Recorder.logged["eval/refused_share"] == 0.0
    assert made[0] == made[1] and made[0].keys() == {"train.jsonl", "eval.jsonl", "metrics.json"}
    assert set_up == [(0, 1)] * 2
    rows = {split: read_jsonl(out / f"{split}.jsonl")[:2] for split in ("train", "eval")}
    assert [(row["chosen_score"], row["rejected_score"]) for row in rows["train"]] == [(0.0, 0.0), (2.5, -2.5)]
    assert [(row["chosen_score"], row["rejected_score"]) for row in rows["eval"]] == [(-2.5, 2.5), (2.5, -2.5)]


def test_the_teacher_is_asked_and_its_errors_say_whose_keys_they_name(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(folder: Path, journal: object) -> Judge:
        asked.append(folder)
        if len(asked) == 2:
            raise UserError("judge.timeout is over.")
        return Judge(0.0)

    monkeypatch.setattr("epsilon_dpo.judging.judges.loading.load_judge", load)
    monkeypatch.setattr("epsilon_dpo.pipeline.stage.runtime.set_up", lambda seed, threads: None)
    run(project, "{source: judge, temperature: 1.0}")
    said = r"margins: What teaches is the block teacher, or judge where that is null: judge\.timeout is"
    with pytest.raises(SystemExit, match=said):
        run(project, "{source: judge, temperature: 1.0}")
    assert asked == [Path("out/teacher")] * 2


def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_left(project: Path) -> None:
    write_json(project / "out" / "validate" / "dataset.json", {"true_reward": False})
    with pytest.raises(SystemExit, match=r"margins\.source: true_reward needs data whose reward is known"):
        run(project, "{source: true_reward, temperature: null}")
    assert not (project / "out" / "margins").exists()
