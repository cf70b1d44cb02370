"""Claims as code: what is refused, when a claim holds, and the page, every number of which comes from study/."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import t

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.study import replicate
from epsilon_dpo.study.claims import Study, read_study
from epsilon_dpo.study.collect import read_results
from epsilon_dpo.study.page import page
from epsilon_dpo.study.verdicts import findings

ROOT = Path(__file__).parents[2]
CLAIM = {
    "id": "spends_more",
    "claim": "It spends more KL.",
    "place": "Figure 5",
    "definition": "KL at the same β",
    "refuted_by": "less",
    "level": "controlled",
    "measure": {"name": "mean_of", "recipe": {"method": "dpo"}, "column": "kl"},
    "expected": {"is": "above", "than": 1.0},
}
LEVELS = {"controlled": {"title": "by hand", "preset": "presets/by-hand.yaml", "seeds": [1, 2, 3]}}


def study(**changes: Any) -> Study:
    return Study.model_validate({"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM | changes]})


def rows(*kls: float) -> list[dict[str, Any]]:
    name = json.dumps({"method": "dpo"})
    return [{"seed": seed, "recipe": name, "beta": "0.1", "place": ".", "kl": kl} for seed, kl in enumerate(kls)]


@pytest.mark.parametrize(
    ("kls", "is_", "verdict"),
    [
        ((2.0, 2.1, 1.9), "above", "holds"),
        ((2.0, 2.1, 1.9), "below", "fails"),
        ((0.2, 0.1, 0.3), "above", "fails"),
        ((0.5, 2.0, 1.0), "above", "undecided at this n"),
        ((2.0,), "above", "undecided at this n"),
        ((), "above", "not run"),
    ],
)
def test_a_claim_holds_where_the_interval_lies_on_its_side(kls: tuple[float, ...], is_: str, verdict: str) -> None:
    (found,) = findings(study(expected={"is": is_, "than": 1.0}), {"controlled": rows(*kls)})
    assert found.verdict == verdict
    if len(kls) > 1:
        half = t.ppf(0.975, len(kls) - 1) * np.std(kls, ddof=1) / np.sqrt(len(kls))
        assert found.value is not None
        assert (found.value, found.low, found.high) == pytest.approx(
            (np.mean(kls), np.mean(kls) - half, np.mean(kls) + half)
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test": "tests/test_dag.py::test_x"}, "exactly one of measure, test and needs"),
        ({"measure": {"name": "p_value"}}, "no measure is called p_value"),
        ({"level": "moon"}, "no level is called moon"),
        ({"expected": None}, "says what is expected"),
        ({"refuted_by": None}, "refuted_by"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM | changes]}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match=says):
        read_study(tmp_path)


def test_every_number_of_the_page_comes_from_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert Path("docs/replication.md").read_text("utf-8") == page(), "`epsilon-dpo study page` writes it anew"


def test_tests_that_hold_a_claim_exist_and_presets_hold_every_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ours = read_study()
    for claim in ours.claims:
        if claim.test:
            file, _, name = claim.test.partition("::")
            assert f"def {name}(" in Path(file).read_text("utf-8"), claim.id
        elif claim.measure:
            preset = ours.levels[claim.level or ""].preset
            assert preset is not None
            entries = yaml.safe_load(preset.read_text("utf-8"))["runs"].values()
            asked = [claim.measure[name] for name in ("first", "second", "recipe") if name in claim.measure]
            for recipe in asked:
                betas = {entry["beta"] for entry in entries if recipe.items() == of_recipe(entry).items()}
                assert len(betas) == (4 if claim.level == "controlled" else 2), (claim.id, recipe)


def of_recipe(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("beta", "seed", "snapshot_epochs")}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of three replicates, whose reproduction writes down its seed."""
    monkeypatch.chdir(tmp_path)
    for folder in ("study", "presets"):
        Path(folder).mkdir()
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    Path("presets/by-hand.yaml").write_text("seed: 1\nruns:\n  dpo: {method: dpo, beta: 0.1, seed: 5}\n", "utf-8")
    Path("params.yaml").write_text("seed: 3\nruns:\n  dpo: {method: dpo, beta: 0.1, seed: 5}\n", "utf-8")

    def collected(level: str, at: Path, study: Path) -> int:
        seed = yaml.safe_load((at / "params.yaml").read_text("utf-8"))["seed"]
        folder = study / "results" / level
        folder.mkdir(parents=True, exist_ok=True)
        known = read_results(level, study)
        lines = [f"{row['seed']},x\n" for row in known] + [f"{seed},x\n"]
        (folder / "policies.csv").write_text("seed,run\n" + "".join(lines), "utf-8")
        return 1

    monkeypatch.setattr(replicate, "collect", collected)
    command = tmp_path / "bin" / "dvc"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\ngrep -m1 ^seed params.yaml >> reproduced\ntest ! -e broken\n", "utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    return tmp_path


def test_the_replicates_run_one_after_the_other_and_go_on_where_one_stopped(project: Path) -> None:
    Path("broken").touch()
    with pytest.raises(UserError, match=r"the replicate of seed 1 stopped \(`dvc repro` ended with 1\)"):
        replicate.run_level("controlled")
    Path("broken").unlink()
    assert replicate.run_level("controlled") == "level controlled has its 3 replicates: study/results/controlled"
    assert Path("reproduced").read_text("utf-8").split() == ["seed:", "1", "seed:", "1", "seed:", "2", "seed:", "3"]
    assert "seed: 5" in Path("params.yaml").read_text("utf-8"), "the seed of a run is its own"
    replicate.run_level("controlled")
    assert len(Path("reproduced").read_text("utf-8").splitlines()) == 4, "what has results is not run again"


def test_a_level_that_cannot_be_run_says_why(project: Path) -> None:
    with pytest.raises(UserError, match="no level is called paper; there are controlled"):
        replicate.run_level("paper")
    Path("params.yaml").write_text("seed: 3\nruns: {mine: {method: dpo, beta: 0.5}}\n", "utf-8")
    with pytest.raises(
        UserError, match=r"params.yaml is not presets/by-hand.yaml .* cp presets/by-hand.yaml params.yaml"
    ):
        replicate.run_level("controlled")
