"""Claims as code: what is refused, when a claim holds, and the page, every number of which comes from study/."""

import importlib
import json
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import t

from epsilon_dpo.cli import main
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_csv, write_json
from epsilon_dpo.pipeline.stage.manifest import weights_digests, write_manifest
from epsilon_dpo.pipeline.stage.params import read_yaml
from epsilon_dpo.report.page.replication import read_replication
from epsilon_dpo.study import replicate
from epsilon_dpo.study.claims import Study, read_study
from epsilon_dpo.study.collect import (
    collect,
    known_replicates,
    made_from,
    read_results,
    refuse_other_settings,
    results_folder,
)
from epsilon_dpo.study.page import page, verdict_table, write_page
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
LEVELS = {"controlled": {"title": "By hand", "preset": "presets/by-hand.yaml", "seeds": [1, 2, 3], "drawn": "all"}}


def study(**changes: Any) -> Study:
    return Study.model_validate({"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM | changes]})


@pytest.mark.parametrize(
    ("measure", "sentence"),
    [({"frist": {}}, "got an unexpected keyword argument 'frist'"), ({"name": ["a"]}, r"no measure is called \['a'\]"),
     ({"column": None, "name": "curve"}, "no measure is called curve")],
)  # fmt: skip
def test_a_measure_that_cannot_be_called_is_refused_before_anything_is_trained(
    measure: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        study(measure=CLAIM["measure"] | measure)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with one for a study and one for its page."""
    monkeypatch.chdir(tmp_path)
    for folder in ("study", "docs"):
        Path(folder).mkdir()
    return tmp_path


def rows(*kls: float | str) -> list[dict[str, Any]]:
    name = json.dumps({"method": "dpo"})
    alike = {"run": "dpo", "recipe": name, "beta": "0.1", "place": ".", "prompts": "7"}
    alike |= {"win_rate_true": "0.5", "win_rate_judge": ""}
    return [{"seed": str(seed), "kl": str(kl)} | alike for seed, kl in enumerate(kls, start=1)]


@pytest.mark.parametrize(
    ("kls", "is_", "verdict"),
    [
        ((2.0, 2.1, 1.9), "above", "holds"),
        ((2.0, 2.1, 1.9), "below", "fails"),
        ((0.2, 0.1, 0.3), "above", "fails"),
        ((0.5, 2.0, 1.0), "above", "undecided at this n"),
        ((2.0,), "above", "undecided at this n"),
        ((2.0, 2.001), "above", "undecided at this n"),
        ((2.0, 2.0, 2.0), "above", "undecided at this n"),
        ((0.1, 0.1, 0.1), "below", "undecided at this n"),  # whose mean is not .1, by rounding
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


def test_a_replicate_without_a_value_leaves_the_claim_open_and_is_named() -> None:
    (found,) = findings(study(), {"controlled": rows(2.0, 2.1, "", 1.9)})
    assert found.verdict == "not measurable" and found.value is None
    assert found.missing == {3: "dpo has no kl"} and found.by_seed == {1: 2.0, 2: 2.1, 4: 1.9}
    (found,) = findings(study(), {"controlled": rows(2.0, 2.1, "nan", 1.9)})
    assert found.verdict == "not measurable" and found.missing == {3: "dpo has no kl"}


def test_a_replicate_that_lacks_a_policy_of_the_others_is_not_averaged_with_them() -> None:
    """The mean over its β would be of other β."""
    of_all = rows(2.0, 2.1, 1.9)
    more = [row | {"run": "dpo_b03", "beta": "0.3", "kl": "5.0"} for row in of_all]
    (found,) = findings(study(), {"controlled": of_all + more[:2]})
    assert found.verdict == "not measurable" and found.missing == {3: "no dpo_b03"}
    (found,) = findings(study(), {"controlled": of_all + more})
    assert found.verdict == "holds" and found.value == pytest.approx(3.5)


def at(beta: str, *kls: float) -> list[dict[str, Any]]:
    return [row | {"run": f"dpo_{beta}", "beta": beta} for row in rows(*kls)]


def test_a_claim_that_holds_at_one_beta_and_fails_at_another_is_mixed() -> None:
    """Whatever the mean over both says: 2.3 is above 1."""
    above, below = at("0.1", 4.0, 4.1, 4.2), at("0.3", 0.5, 0.6, 0.4)
    (found,) = findings(study(), {"controlled": above + below})
    assert found.low is not None and found.low > 1.0
    assert found.verdict == "mixed" and [part.verdict for part in found.parts.values()] == ["holds", "fails"]
    assert found.parts["at β 0.3"].value == pytest.approx(0.5) and found.parts["at β 0.3"].share == 0.5
    (found,) = findings(study(), {"controlled": above + at("0.3", 0.5, 2.6, 0.4)})
    assert found.verdict == "holds" and found.parts["at β 0.3"].verdict == "undecided at this n"
    (found,) = findings(study(), {"controlled": above})
    assert found.verdict == "holds" and not found.parts, "one β is the whole"


def test_less_than_half_a_prompt_decides_nothing() -> None:
    """.503 with hardly a spread is more than a half, but of 83 prompts half a one is .006."""
    claim = {"measure": {"name": "mean_of", "recipe": {"method": "dpo"}, "column": "win_rate_true"}}
    for wins, prompts, said in ((0.503, "83", "undecided at this n"), (0.503, "256", "holds"), (0.52, "83", "holds")):
        three = [
            row | {"win_rate_true": str(wins + n / 1e6), "prompts": prompts} for n, row in enumerate(rows(1, 1, 1))
        ]
        (found,) = findings(study(**claim, expected={"is": "above", "than": 0.5}), {"controlled": three})
        assert found.verdict == said, (wins, prompts)


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
def test_a_claim_that_cannot_be_decided_is_refused(here: Path, changes: dict[str, Any], says: str) -> None:
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM | changes]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match=says):
        read_study()


def test_the_page_is_what_the_committed_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert Path("docs/replication.md").read_text("utf-8") == page(), "`epsilon-dpo study page` writes it anew"
    assert read_json(Path("study/verdicts.json")) == verdict_table(), "`epsilon-dpo study page` writes it anew"


def test_every_cell_of_a_page_by_hand(here: Path) -> None:
    """KL 2, 4 and 3: mean 3, standard deviation 1, standard error .577, t .975 with 2 degrees of freedom 4.303."""
    tested = {"id": "tested", "measure": None, "expected": None, "level": None, "test": "tests/test_dag.py::test_x"}
    unrun = {"id": "unrun", "measure": None, "expected": None, "level": None, "needs": "a GPU"}
    chosen = {"id": "chosen", "post_hoc": True, "expected": {"is": "above", "than": 0.1}}
    claims = [
        CLAIM | {"unit": "nats"},
        CLAIM | chosen,
        CLAIM | tested,
        CLAIM | unrun,
        CLAIM | {"id": "b", "level": "mars", "place": "KL(a || b)"},
        CLAIM | {"id": "both", "level": "moon", "ours": True, "place": "nowhere"},
    ]
    levels: dict[str, Any] = deepcopy(LEVELS) | {"mars": {"title": "Far", "needs": "a rocket"}}
    levels["moon"] = LEVELS["controlled"] | {"title": "Two β"}
    levels["controlled"]["note"] = "The judge is a die."
    content = {"confidence": 0.95, "levels": levels, "claims": claims}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    Path("study/notes.md").write_text("## What surprised\n\nNothing.\n", "utf-8")
    folder = results_folder("controlled")
    folder.mkdir(parents=True)
    write_csv(folder / "policies.csv", rows(2.0, 4.0, 3.0))
    made = {"commit": "c" * 40, "uncommitted_changes": False, "params": "p", "collected_on": "a CPU"}
    versions = {"torch": "2.13.0", "transformers": "5.0"}
    write_json(folder / "replicates.json", {str(seed): made | versions for seed in (1, 2, 3)})
    results_folder("moon").mkdir(parents=True)
    write_csv(results_folder("moon") / "policies.csv", at("0.1", 6.0, 6.1, 5.9) + at("0.3", 0.2, 0.3, 0.1))
    write_json(results_folder("moon") / "replicates.json", {})
    text = page()
    for cell in (
        "- of the paper and the slides: 1 undecided at this n, 1 by a test, 2 not run\n- our own: 1 mixed\n"
        "- added after a look at the values: 1 holds\n",
        "| [It spends more KL.](#chosen) | Figure 5; added after a look at the values | controlled | +3.000 [+0.516, ",
        "| [It spends more KL.](#both) | nowhere | moon | +3.100 [+2.852, +3.348] | 3 | "
        "**mixed**: holds at β 0.1; fails at β 0.3 |",
        "- At β 0.3: +0.200 [-0.048, +0.448], fails.",
        "wins over the chosen answers. The judge is a die. Prompts of a replicate: 7.",
        "| controlled | By hand | all | 3 of 3 |",
        "| mars | Far |  | not run, needs a rocket |",
        "| [It spends more KL.](#spends_more) | Figure 5 | controlled | +3.000 [+0.516, +5.484] nats | 3 | undecided",
        "| [It spends more KL.](#tested) | Figure 5 |  |  |  | holds by [a test](../tests/test_dag.py) |",
        "| [It spends more KL.](#unrun) | Figure 5 |  |  |  | not run: needs a GPU |",
        "| [It spends more KL.](#b) | KL(a \\|\\| b) | mars |  |  | not run: needs a rocket |",
        "| dpo | 0.1 | 3.000 ± 0.577 | 0.500 ± 0.000 |  |",
        "- By seed: 1: +2.0000, 2: +4.0000, 3: +3.0000.",
        "| 2 | cccccccccc | 2.13.0 | 5.0 | a CPU |",
    ):
        assert cell in text, cell
    assert write_page().read_text("utf-8") == text
    told = read_replication(Path("study/verdicts.json"))
    assert [told.not_run, told.levels["controlled"]["replicates"], told.levels["mars"]["replicates"]] == [
        2,
        "3 of 3",
        "not run",
    ]
    measured, chosen_later, held, mixed = told.claims
    assert (measured["post_hoc"], chosen_later["post_hoc"]) == (False, True)
    assert (mixed["verdict"], mixed["note"]) == ("mixed", "holds at β 0.1; fails at β 0.3")
    assert {"value": 3.0, "low": 0.515862, "high": 5.484138, "n": 3, "unit": "nats"}.items() <= measured.items()
    assert (measured["verdict"], held["verdict"], held["n"]) == ("undecided at this n", "by a test", 0)
    content["levels"]["controlled"]["seeds"] = [1, 2, 3, 4]
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    write_csv(folder / "policies.csv", rows(2.0, 2.1, 2.2))
    assert "| **holds**, preliminary: 1 of 4 replicates lacking |" in page()


@pytest.mark.slow
def test_tests_that_hold_a_claim_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the case that is named in brackets. They are imported here; another pytest would import torch once more."""
    monkeypatch.chdir(ROOT)
    asked = [claim.test for claim in read_study().claims if claim.test]
    assert asked
    for test in asked:
        file, _, name = test.partition("::")
        function, _, case = name.rstrip("]").partition("[")
        for folder in list((ROOT / file).parents)[1::-1]:  # as pytest does, where conftest.py is
            monkeypatch.syspath_prepend(str(folder))
        found = getattr(importlib.import_module(Path(file).stem), function)
        if case:
            (mark,) = (mark for mark in found.pytestmark if mark.name == "parametrize")
            assert case in map(mark.kwargs["ids"], mark.args[1]), test


def test_presets_hold_every_recipe_at_every_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ours = read_study()
    for claim in ours.claims:
        if claim.measure:
            preset = ours.levels[claim.level or ""].preset
            assert preset is not None
            entries = yaml.safe_load(preset.read_text("utf-8"))["runs"].values()
            for recipe in (claim.measure[name] for name in ("first", "second", "recipe") if name in claim.measure):
                betas = {entry["beta"] for entry in entries if recipe.items() == of_recipe(entry).items()}
                from_pairs = recipe["method"] in ("dpo", "epsilon_dpo")
                number = {"controlled": 4, "bfloat16": 4, "smollm2": 2, "rlhf": 3 if from_pairs else 2}
                assert len(betas) == number[claim.level or ""], (claim.id, recipe)


def of_recipe(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("beta", "seed", "snapshot_epochs")}


RUNS = "base: {path: its/model, dtype: float32}\nruns:\n  dpo: {method: dpo, beta: 0.1, seed: 5}\n"


@pytest.fixture
def project(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study of three replicates, whose reproduction writes down its seed."""
    Path("presets").mkdir()
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    Path("presets/by-hand.yaml").write_text(f"seed: 1\n{RUNS}", "utf-8")
    ours = f"seed: 3\n{RUNS}".replace("its/model", "my/model")
    Path("params.yaml").write_text(ours, "utf-8")
    Path("pins.yaml").write_text('torch: "2.13.0"\ntransformers: "5.0"\n', "utf-8")

    def collected(level: str, at: Path) -> tuple[int, int, str]:
        seed = yaml.safe_load((at / "params.yaml").read_text("utf-8"))["seed"]
        folder = results_folder(level)
        folder.mkdir(parents=True, exist_ok=True)
        made = made_from(at, read_yaml(at / "params.yaml"))
        write_json(folder / "replicates.json", known_replicates(level) | {str(seed): made})
        write_csv(folder / "policies.csv", [*read_results(level), {"seed": seed, "run": "dpo"}])
        return 1, 0, ""

    monkeypatch.setattr(replicate, "collect", collected)
    monkeypatch.setattr(replicate, "summarise", lambda *_: "")
    command = here / "bin" / "dvc"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\ngrep -m1 ^seed params.yaml >> reproduced\ntest ! -e broken\n", "utf-8")
    command.chmod(0o755)
    monkeypatch.setattr(replicate.sys, "executable", str(command.parent / "python"))  # of a .venv not activated
    return here


def test_the_replicates_run_one_after_the_other_and_go_on_where_one_stopped(project: Path) -> None:
    Path("broken").touch()
    with pytest.raises(UserError, match=r"the replicate of seed 1 stopped \(`dvc repro` ended with 1\)"):
        replicate.run_level("controlled")
    Path("broken").unlink()
    pretrained(seed=3, weights=b"of other params")
    ours = made_from(Path(), read_yaml(Path("params.yaml"))) | {"model": {"model.safetensors": "ours"}}
    results_folder("controlled").mkdir(parents=True)
    write_json(results_folder("controlled") / "replicates.json", {"1": ours})
    assert replicate.run_level("controlled") == "level controlled has its 3 replicates: study/results/controlled"
    assert Path("reproduced").read_text("utf-8").split() == ["seed:", "1", "seed:", "1", "seed:", "2", "seed:", "3"]
    left = Path("params.yaml").read_text("utf-8")
    assert "seed: 5" in left and "my/model" in left, "the seed of a run is its own, and so are paths"
    replicate.run_level("controlled")
    assert len(Path("reproduced").read_text("utf-8").splitlines()) == 4, "what has results is not run again"


def test_a_replicate_that_would_be_refused_afterwards_does_not_run(project: Path) -> None:
    """As after a run of one's own was added to a level that has results."""
    Path("broken").touch()
    with pytest.raises(UserError, match="the replicate of seed 1 stopped"):
        replicate.run_level("controlled")
    replicate.collect("controlled", Path())
    for file in ("presets/by-hand.yaml", "params.yaml"):
        with Path(file).open("a", encoding="utf-8") as text:
            text.write("  mine: {method: dpo, beta: 0.2}\n" if file != "params.yaml" else "")
    Path("params.yaml").write_text(Path("presets/by-hand.yaml").read_text("utf-8"), "utf-8")
    with pytest.raises(UserError, match="differs in more than the seed from that of the replicate of seed 1"):
        replicate.run_level("controlled")
    assert Path("reproduced").read_text("utf-8").count("seed") == 1, "nothing ran in vain"


@pytest.mark.parametrize(("ours", "its"), [("float32", "bfloat16"), ("seed: 5", "seed: 6"), ("beta: 0.1", "beta: 1")])
def test_a_level_is_run_and_collected_with_its_presets_params(project: Path, ours: str, its: str) -> None:
    """Also where every replicate is there already: what they say is not what params.yaml describes."""
    replicate.run_level("controlled")
    text = Path("params.yaml").read_text("utf-8")
    Path("params.yaml").write_text(text.replace(ours, its), "utf-8")
    assert ours in text
    with pytest.raises(
        UserError, match=r"params.yaml is not made from presets/by-hand.yaml \((base|runs) differs\): cp"
    ):
        replicate.run_level("controlled")
    with pytest.raises(UserError, match=r"(base|runs) of params.yaml is not that of presets/by-hand.yaml"):
        collect("controlled", project)


def test_ctrl_c_ends_the_study_without_a_traceback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def interrupted(command: list[str], **options: Any) -> Any:
        if command[0] == "dvc":
            raise KeyboardInterrupt
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["study", "run", "controlled"])
    assert end.value.code == 130 and "seed: 1" in Path("params.yaml").read_text("utf-8")


def test_a_level_that_cannot_be_run_says_why(project: Path) -> None:
    with pytest.raises(UserError, match="no level is called paper; there are controlled"):
        replicate.run_level("paper")
    Path("params.yaml").write_text("seed: 3\nruns: {mine: {method: dpo, beta: 0.5}}\n", "utf-8")
    with pytest.raises(UserError, match=r"not made from presets/by-hand.yaml \(base differs\): cp presets/"):
        replicate.run_level("controlled")
    rate = "runs:\n  dpo: {method: dpo, beta: 0.1, learning_rate: 1e-3}\n"  # which YAML 1.1 reads as a text
    for file in ("presets/by-hand.yaml", "params.yaml"):
        Path(file).write_text(f"seed: 1\n{rate}", "utf-8")
    replicate.run_level("controlled")


def test_only_replicates_that_are_alike_are_collected(project: Path) -> None:
    """Before anything is read of what they made, which is not there."""
    with pytest.raises(UserError, match="no level is called controled; there are controlled"):
        collect("controled", project)
    params, made = Path("params.yaml").read_text("utf-8"), made_from(project, read_yaml(Path("params.yaml")))
    Path("params.yaml").write_text(params.replace("seed: 3", "seed: 9", 1), "utf-8")
    with pytest.raises(UserError, match=r"has no replicate of seed 9 \(study/claims.yaml has \[1, 2, 3\]\)"):
        collect("controlled", project)
    Path("params.yaml").write_text(params.replace("beta: 0.1", "beta: 0.2"), "utf-8")
    with pytest.raises(UserError, match=r"block runs of params.yaml is not that of presets/by-hand.yaml"):
        collect("controlled", project)
    folder = results_folder("controlled")
    folder.mkdir(parents=True)

    def collect_among(known: dict[str, Any]) -> None:
        write_json(folder / "replicates.json", known)
        collect("controlled", project)

    Path("params.yaml").write_text(params, "utf-8")
    with pytest.raises(UserError, match=r"differs in more than the seed from that of the replicate of seed 1"):
        collect_among({"1": made | {"params": "others"}})
    ours = pretrained(seed=3, weights=b"ours")
    with pytest.raises(UserError, match=r"model at base.path of .* is another than that of the replicate of seed 1"):
        collect_among({"1": made | {"model": {"model.safetensors": "theirs"}}})
    alike = params.replace("seed: 3", "seed: 2", 1).replace("my/model", "elsewhere")
    Path("params.yaml").write_text(f"# mine\n{alike}", "utf-8")
    with pytest.raises(
        UserError, match="DVC"
    ):  # a comment is no value, seed and path are its own; but it is no project
        collect_among({"1": made | {"model": ours}})


def pretrained(seed: int, weights: bytes) -> dict[str, str]:
    """What stage base leaves of a pretrained model, whose manifest has the seed; the sha256 of its weights."""
    folder = Path("out/base/model")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    write_manifest(folder, "base", {"seed": seed})
    return weights_digests(folder, remember=False)


def test_replicates_of_one_pretrained_model_differ_in_the_seed_of_its_manifest(project: Path) -> None:
    """By which the folder's md5 differs: the second replicate of level smollm2 was refused for another model."""
    params = read_yaml(Path("params.yaml"))
    made = []
    for seed, weights in ((1, b"ours"), (2, b"ours"), (3, b"another's")):
        pretrained(seed, weights)
        made.append(made_from(project, params | {"seed": seed}))
    assert made[0]["model"]
    refuse_other_settings(made[1], 2, {"1": made[0]}, project, Path("study"))
    with pytest.raises(UserError, match="is another than that of the replicate of seed 1"):
        refuse_other_settings(made[2], 3, {"1": made[0]}, project, Path("study"))


def test_the_same_model_may_lie_elsewhere_and_no_other_model_may(project: Path) -> None:
    """The judge of level smollm2 starts from base's model, too."""

    def params(base: str, judge: str) -> str:
        model = {"path": judge, "revision": "a" * 40}
        blocks = {"seed": 1, "base": {"path": base, "revision": "a" * 40}, "judge": {"model": model}}
        return str(made_from(project, blocks)["params"])

    assert params("ours", "ours") == params("elsewhere", "elsewhere") != params("ours", "another")
