"""The stage margins on files: empty by default, for which nothing is loaded, and scores where they are asked for."""

import runpy
from pathlib import Path

import pytest
from untracked import run_untracked

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
    for folder in ("validate", "pairs", "judge"):
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


def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_left(project: Path) -> None:
    write_json(project / "out" / "validate" / "dataset.json", {"true_reward": False})
    with pytest.raises(SystemExit, match=r"margins\.source: true_reward needs data whose reward is known"):
        run(project, "{source: true_reward, temperature: null}")
    assert not (project / "out" / "margins").exists()
