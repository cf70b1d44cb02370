"""presets/control.yaml, cut down to a minute on made-up reviews: from the table of texts to the report's own table."""

import csv
from pathlib import Path
from typing import Any

import pytest
from made_up_reviews import reviews, write_reviews
from whole_pipeline import all_stages, copy_project, metrics_of, repro, with_preset

from epsilon_dpo.pipeline.stage.files import read_json, read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.campaign]  # what its stages do has tests of its own

SMALL: dict[str, Any] = {
    "fetch.prompt_words": 4,
    "fetch.max_eval_pairs": 40,
    "base.vocab_size": 300,
    "base.hidden_size": 64,
    "base.intermediate_size": 128,
    "base.num_hidden_layers": 2,
    "base.head_dim": 16,
    "validate.min_train_pairs": 100,
    "validate.min_eval_pairs": 20,
    "sft.max_steps": 150,
    "sft.learning_rate": 1.0e-2,
    "candidates.max_prompts": 60,
    "align.max_steps": 20,
    "sample.max_prompts": 24,
    "tournament.max_prompts": 10,
    "runs": {
        "dpo": {"method": "dpo", "beta": 0.1},
        "rloo": {"method": "rloo", "beta": 0.3, "k": 4, "prompts_per_step": 8, "steps": 4, "max_new_tokens": 24},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("control"))
    write_reviews(project / "data/reviews/combined_movie_reviews.csv", reviews(900))
    with_preset(project, "control", SMALL)
    assert set(repro(project)) == all_stages(project)
    return project


def test_the_classifier_was_trained_on_texts_that_no_policy_saw(project: Path) -> None:
    assert metrics_of(project, "judge")["classifier_accuracy"] > 0.9
    labelled = read_jsonl(project / "out/validate/labelled.jsonl")
    texts = {row["text"] for row in labelled if row["part"] == "classifier"}
    for split in ("train", "eval"):
        rows = read_jsonl(project / f"out/validate/{split}.jsonl")
        assert rows and texts.isdisjoint(f"{row['prompt'][0]['content']} {row['chosen'][0]['content']}" for row in rows)


def test_four_answers_are_at_most_six_pairs_by_the_classifiers_scores(project: Path) -> None:
    pairs = read_jsonl(project / "out/pairs/train_text.jsonl")
    by_prompt: dict[str, int] = {}
    for pair in pairs:
        assert pair["chosen_score"] > pair["rejected_score"]
        row = pair["id"].rpartition("/")[0]
        by_prompt[row] = by_prompt.get(row, 0) + 1
    assert max(by_prompt.values()) == 6


def test_the_table_has_scores_distances_and_the_best_of_four(project: Path) -> None:
    with (project / "out/report/control.csv").open(encoding="utf-8") as file:
        rows = {row["policy"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["sft", "best_of_4", "dpo", "rloo"]
    value = {name: float(row["positive_probability"]) for name, row in rows.items()}
    assert value["sft"] < value["best_of_4"] and value["sft"] < value["dpo"]
    for name in ("dpo", "rloo"):
        assert float(rows[name]["kl_rev_rb"]) >= 0.0
        own = float(rows[name]["kl_rev_mc"]) - float(rows[name]["kl_rev_rb"])
        assert abs(own) < 4.0 * float(rows[name]["kl_rev_mc_se"]) + 0.05, "k1 on its own answers estimates the same"
    assert float(rows["dpo"]["k1_of_pairs"]) < 0.0 < float(rows["dpo"]["kl_rev_rb"])
    assert "control setting" in (project / "out/report/report.html").read_text("utf-8")
    assert read_json(project / "out/validate/dataset.json")["preferences"] is False
