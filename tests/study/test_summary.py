"""What MLflow is told of a level over its replicates: the page's numbers, with intervals, or one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from epsilon_dpo import cli
from epsilon_dpo.mlflow_writer import replicates
from epsilon_dpo.pipeline.stage.files import write_csv
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.study import collect, replicate
from epsilon_dpo.study.claims import read_study
from epsilon_dpo.study.collect import read_results, results_folder
from epsilon_dpo.study.page import page
from epsilon_dpo.study.summary import summary

ROOT = Path(__file__).parents[2]


def policy(seed: int, kl: float, beta: str = "0.1", method: str = "dpo", place: str = ".") -> dict[str, Any]:
    row = {"seed": str(seed), "run": method, "recipe": json.dumps({"method": method, "a": 1}), "beta": beta}
    return row | {"place": place, "kl": str(kl), "win_rate_true": "0.5", "win_rate_judge": "", "prompts": "7"}


def test_a_summary_has_an_interval_of_three_replicates_that_differ() -> None:
    """KL 2, 4 and 3: mean 3, standard error .577, t .975 with 2 degrees of freedom 4.303."""
    rows = [policy(seed, kl) for seed, kl in ((1, 2.0), (2, 4.0), (3, 3.0))]
    rows += [policy(seed, kl, "0.3") for seed, kl in ((1, 2.0), (2, 4.0))] + [policy(1, 9.0, place="snapshots/0.5")]
    three, two = summary([policy(1, 0.0, "", "sft"), *rows], 0.95)[1:]
    assert three["params"] == {"method": "dpo", "beta": 0.1, "a": 1} and three["seeds"] == "1 2 3"
    assert three["metrics"] == {"replicates": 3, "kl": 3.0, "kl_low": 0.516, "kl_high": 5.484, "true_win_rate": 0.5}
    assert two["metrics"] == {"replicates": 2, "kl": 3.0, "true_win_rate": 0.5}


def test_the_means_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = [line.split("|")[1:-1] for line in page().splitlines() if line[:1] == "|"]
    table = [[cell.split(" ±")[0].strip() for cell in line] for line in lines]
    for level in ("controlled", "rlhf"):
        entries = summary(read_results(level), read_study().confidence)
        assert "sft" in {entry["params"]["method"] for entry in entries}
        for entry in entries:
            method, beta = entry["params"].pop("method"), entry["params"].pop("beta", "")
            name = ", ".join([method, *(f"{key} {value}" for key, value in entry["params"].items())])
            means = [f"{entry['metrics'][column]:.3f}" for column in ("kl", "true_win_rate", "win_rate")]
            assert [name, str(beta), *means] in table


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A study that is complete, and which levels MLflow is told of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    levels = {"small": {"title": "By hand", "preset": "preset.yaml", "seeds": [1]}, "never": {"title": "Not run"}}
    folder = results_folder("small")
    for new in (folder, Path("docs")):
        new.mkdir(parents=True)
    Path("study/claims.yaml").write_text(yaml.safe_dump({"confidence": 0.9, "levels": levels, "claims": []}), "utf-8")
    Path("study/notes.md").write_text("", "utf-8")
    Path("pins.yaml").write_text('torch: "2.13.0"\ntransformers: "5.0"\n', "utf-8")
    for file in ("preset.yaml", "params.yaml"):
        Path(file).write_text("seed: 1\nruns: {dpo: {method: dpo, beta: 0.1}}\n", "utf-8")
    write_csv(folder / "policies.csv", [policy(1, 2.0)])
    made = collect.made_from(Path(), read_yaml(Path("params.yaml")))
    (folder / "replicates.json").write_text(json.dumps({"1": made | {"commit": "0" * 40}}), "utf-8")
    levels_told: list[str] = []

    def write_summary(level: str, recipes: list[dict[str, Any]], confidence: str) -> str:
        assert (confidence, [entry["params"]["beta"] for entry in recipes]) == ("90%", [0.1])
        levels_told.append(level)
        return "http://127.0.0.1:5000/#/view"

    monkeypatch.setattr(replicates, "write_summary", write_summary)
    return levels_told


def test_every_command_of_the_study_writes_the_summary_and_says_where(
    told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also `study run` of a clone, which has nothing left to run."""
    monkeypatch.setattr(collect, "refuse_unfinished", lambda _: None)
    monkeypatch.setattr(collect, "reference", lambda _, seed: policy(seed, 2.0))
    monkeypatch.setattr(collect, "policies", lambda *_: iter(()))
    monkeypatch.setattr(collect, "marked", lambda *_: 3)
    for command in (["run", "small"], ["page"], ["collect", "small", str(Path.cwd())]):
        cli.main(["study", *command])
        assert told.pop() == "small" and not told
        said = capsys.readouterr().out
        assert "in MLflow: http://127.0.0.1:5000/#/view (while `make ui` runs)" in said
    assert f"3 rows are marked in {Path.cwd() / 'mlruns'}" in said
    made = collect.made_from(Path(), read_yaml(Path("params.yaml")))
    assert made["commit"] != "0" * 40 and collect.known_replicates("small") == {"1": made}, "it is made anew"


def test_a_store_that_cannot_be_reached_costs_one_line(
    told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert replicate.run_level("small") == "level small has its 1 replicates: study/results/small"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking: the summary of level small is not in MLflow (ConnectionError") and not told
