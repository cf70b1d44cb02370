"""Claims as code: what is refused, when a claim holds, and the page, every number of which comes from study/."""

import importlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import t
from study_by_hand import CLAIM, LEVELS

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json, write_csv, write_json
from epsilon_dpo.report.page.replication import read_replication
from epsilon_dpo.study.claims import Study, read_study
from epsilon_dpo.study.collect import read_results, results_folder
from epsilon_dpo.study.measures import BEHIND, BOTH_HAVE, BOTH_TO_BEST, ONE_HAS_NONE, TO_BEST
from epsilon_dpo.study.page import page, verdict_table, write_page
from epsilon_dpo.study.verdicts import findings

ROOT = Path(__file__).parents[2]
FORMER = {
    "until": "Monday",
    "values": "seen",
    "was": "another measure",
    "verdict": "fails",
    "measured": "-1",
    "why": "Why",
}
SHORT = {"question": "Does it spend more?", "answer": "Yes", "claims": {"KL": "spends_more"}, "seen": ["holds"]}


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


@pytest.mark.parametrize("budgets", [[3.0, 0.75], [0.75], [-1.0, 3.0], [0.75, "3"], [0.75, float("inf")], 3.0])
def test_a_range_of_budgets_is_two_kls(budgets: Any) -> None:
    measure = {"name": "win_rate_at_equal_kl", "first": OURS, "second": DPO, "scorer": "true"}
    assert study(measure=measure | {"budgets": [0.75, 3]}).claims[0].measure
    with pytest.raises(ValueError, match="budgets of a claim are two KLs in nats, the smaller one first, not "):
        study(measure=measure | {"budgets": budgets})


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
    early = [row | {"place": "snapshots/000002"} for row in of_all[:2]]
    (found,) = findings(study(), {"controlled": of_all + early})
    assert found.verdict == "not measurable" and found.missing == {3: "no dpo/snapshots/000002"}


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


DPO, OURS = {"method": "dpo"}, {"method": "epsilon_dpo"}


def two_curves(best: float) -> list[dict[str, Any]]:
    """Of three replicates: DPO's policies at KL 1, 50 and 100 and ours at 2, 50 and 100, the best of both at 50. There
    ours wins `best`. In the first replicate all of ours win .002 less, in the third .002 more."""
    found = []
    for seed, more in ((1, -0.002), (2, 0.0), (3, 0.002)):
        points = [({"method": "sft"}, "", 0.0, 0.5)]
        points += [(DPO, "1.0", 1.0, 0.6), (DPO, "0.3", 50.0, 0.8), (DPO, "0.1", 100.0, 0.7)]
        points += [(OURS, "1.0", 2.0, 0.52 + more), (OURS, "0.3", 50.0, best + more), (OURS, "0.1", 100.0, 0.7 + more)]
        for recipe, beta, kl, win in points:
            row = {"seed": str(seed), "run": f"{recipe['method']}_{beta}", "recipe": json.dumps(recipe), "beta": beta}
            row |= {"place": ".", "kl": str(kl), "win_rate_true": str(win), "win_rate_judge": "", "prompts": "100"}
            found.append(row)
    return found


@pytest.mark.parametrize(
    ("best", "said", "note"),
    [
        (0.94, "holds", ""),
        (
            0.82,
            "mixed",
            f"holds {BEHIND}; fails {BOTH_HAVE}; the mean alone: fails",
        ),
    ],
)
def test_a_part_of_a_few_budgets_makes_no_claim_mixed_and_is_not_named(
    here: Path, best: float, said: str, note: str
) -> None:
    """Those below KL 2, six of 256, where ours is a mixture with SFT and behind by .06 on average. Up to 50 its lead
    then goes from -.084 to .14 or .02 in a line, and stays so."""
    measure = {"name": "win_rate_at_equal_kl", "first": OURS, "second": DPO, "scorer": "true"}
    claim = CLAIM | {"measure": measure, "expected": {"is": "above", "than": 0.0}}
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [claim]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    results_folder("controlled").mkdir(parents=True)
    write_csv(results_folder("controlled") / "policies.csv", two_curves(best))
    (found,) = findings(read_study(), {"controlled": read_results("controlled")})
    few = found.parts[ONE_HAS_NONE]
    assert (few.share, few.verdict) == (6 / 256, "fails") and found.verdict == said
    (told,) = verdict_table()["claims"]
    assert (told["verdict"], told["note"]) == (said, note)


def test_less_than_half_a_prompt_decides_nothing() -> None:
    """.503 with hardly a spread is more than a half, but of 83 prompts half a one is .006; also where one replicate
    alone has so few."""
    claim = {"measure": {"name": "mean_of", "recipe": {"method": "dpo"}, "column": "win_rate_true"}}
    few, many, open_ = ("83",) * 3, ("256",) * 3, "undecided at this n"
    cases = ((0.503, few, open_), (0.503, many, "holds"), (0.52, few, "holds"), (0.503, ("256", "83", "256"), open_))
    for wins, prompts, said in cases:
        three = [
            row | {"win_rate_true": str(wins + n / 1e6), "prompts": prompts[n]} for n, row in enumerate(rows(1, 1, 1))
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
        ({"id": "other"}, "in_short: no claim is called spends_more"),
        ({"formerly": [FORMER]}, "defined anew after its values had been seen is post_hoc"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(here: Path, changes: dict[str, Any], says: str) -> None:
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM | changes], "in_short": [SHORT]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match=says):
        read_study()


def test_claims_have_names_of_their_own_and_a_file(here: Path) -> None:
    with pytest.raises(UserError, match=r"study/claims\.yaml does not exist; run this in the repository's folder"):
        read_study()
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM, CLAIM | {"id": "other"}, CLAIM]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match="two claims are called spends_more"):
        read_study()


def test_what_was_found_rests_on_claims_of_the_file(here: Path) -> None:
    found = [{"says": "It spends more.", "seen": {"other": "holds"}}]
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM], "found": found}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match="found: no claim is called other"):
        read_study()


def test_an_answer_has_a_verdict_for_each_claim_that_it_rests_on(here: Path) -> None:
    content = {"confidence": 0.95, "levels": LEVELS, "claims": [CLAIM], "in_short": [SHORT | {"seen": []}]}
    Path("study/claims.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(UserError, match=r"in_short: 'Does it spend more\?' has 1 claims and 0 in `seen`"):
        read_study()


@pytest.mark.parametrize(
    ("short", "says"),
    [
        ([SHORT, SHORT], "in_short: spends_more belongs to two questions"),
        ([SHORT | {"claims": {"KL": "other"}}], "in_short: spends_more belongs to no question"),
    ],
)
def test_each_claim_of_the_paper_belongs_to_one_sentence(here: Path, short: list[Any], says: str) -> None:
    """Also one that is ours now and was the paper's: a claim that failed cannot leave the count."""
    once = {"ours": True, "post_hoc": True, "formerly": [FORMER]}
    for claim in (CLAIM, CLAIM | once):
        content = {"confidence": 0.95, "levels": LEVELS, "claims": [claim, CLAIM | {"id": "other", "ours": True}]}
        Path("study/claims.yaml").write_text(yaml.safe_dump(content | {"in_short": short}), "utf-8")
        with pytest.raises(UserError, match=says):
            read_study()


def test_a_verdict_that_depends_on_the_range_of_budgets_says_so(here: Path) -> None:
    """Ours is ahead up to DPO's first policy at KL 2 and behind by .06 beyond: the mean is decided by where it ends."""
    points = [({"method": "sft"}, "", 0.0, 0.5), (DPO, "1.0", 2.0, 0.9), (DPO, "0.3", 50.0, 0.6)]
    points += [(OURS, "1.0", 1.0, 0.84), (OURS, "0.3", 50.0, 0.6)]
    made = []
    for seed, more in ((1, -0.002), (2, 0.0), (3, 0.002)):
        for recipe, beta, kl, win in points:
            row = {"seed": str(seed), "run": f"{recipe['method']}_{beta}", "recipe": json.dumps(recipe), "beta": beta}
            row |= {"place": ".", "kl": str(kl), "win_rate_judge": "", "prompts": "100"}
            made.append(row | {"win_rate_true": str(win + more * (recipe == OURS))})
    measure = {"name": "win_rate_at_equal_kl", "first": OURS, "second": DPO, "scorer": "true"}
    claim = CLAIM | {"measure": measure, "expected": {"is": "above", "than": 0.0}}
    (found,) = findings(study(**{key: claim[key] for key in ("measure", "expected")}), {"controlled": made})
    verdicts = {name: answer.verdict for name, answer in found.ranges.items()}
    assert (found.verdict, verdicts) == ("fails", {TO_BEST: "holds", BOTH_TO_BEST: "fails"})
    assert found.verdict_by_range and found.sign_by_range
    Path("study/claims.yaml").write_text(
        yaml.safe_dump({"confidence": 0.95, "levels": LEVELS, "claims": [claim]}), "utf-8"
    )
    Path("study/notes.md").write_text("", "utf-8")
    results_folder("controlled").mkdir(parents=True)
    write_csv(results_folder("controlled") / "policies.csv", made)
    write_json(results_folder("controlled") / "replicates.json", {})
    text, (told,) = page(), verdict_table()["claims"]
    assert (
        "- Of 1 comparisons at an equal KL budget, 1 get another verdict over another range of budgets, and 0" in text
    )
    assert "| **fails**: the verdict depends on the range of budgets |" in text
    assert "- **The verdict depends on the [range of budgets](#ranges-of-budgets) that is averaged**" in text
    assert told["note"] == "the verdict depends on the range of budgets"
    assert [(one["budgets"], one["verdict"]) for one in told["ranges"]] == list(verdicts.items())
    assert told["ranges"][0]["value"] == round(found.ranges[TO_BEST].value or 0.0, 6)


def test_the_page_is_what_the_committed_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert Path("docs/replication.md").read_text("utf-8") == page(), "`epsilon-dpo study page` writes it anew"
    assert read_json(Path("study/verdicts.json")) == verdict_table(), "`epsilon-dpo study page` writes it anew"


def test_every_cell_of_a_page_by_hand(here: Path) -> None:
    """KL 2, 4 and 3: mean 3, standard deviation 1, standard error .577, t .975 with 2 degrees of freedom 4.303."""
    tested = {"id": "tested", "measure": None, "expected": None, "level": None, "test": "tests/test_dag.py::test_x"}
    unrun = {"id": "unrun", "measure": None, "expected": None, "level": None, "needs": "a GPU"}
    chosen = {"id": "chosen", "post_hoc": True, "expected": {"is": "above", "than": 0.1}, "follows_from": "arithmetic"}
    was = FORMER | {"until": "Sunday", "values": "unknown", "verdict": "holds", "measured": ""}
    chosen["formerly"] = [was, FORMER]
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
    levels["moon"]["caution"] = "two craters"
    rests_on = {"KL": "spends_more", "passes": "tested", "time": "unrun"}
    short = SHORT | {"claims": rests_on, "seen": ["undecided at this n", "by a test", "not run"]}
    older = SHORT | {"question": "Still?", "claims": {"anew": "chosen", "of two": "both"}, "seen": ["holds", "holds"]}
    far = SHORT | {"question": "Far?", "claims": {"far": "b"}, "seen": ["not run"]}
    stale = {"says": "It wins.", "seen": {"tested": "by a test", "chosen": "fails"}}
    said = [{"says": "It is tested.", "seen": {"tested": "by a test", "unrun": "not run"}}, stale]
    content = {"confidence": 0.95, "levels": levels, "claims": claims, "in_short": [short, older, far], "found": said}
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
        "\n\n- It is tested.\n"
        "- To be stated anew: a verdict is no longer the one that `found` of study/claims.yaml was written for.\n\n"
        "## In short\n\n| no. | question | answer |\n|---|---|---|\n"
        '| <a id="no-1"></a>[1](#values-1) | Does it spend more? | Yes |\n'
        r'| <a id="no-2"></a>[2\*](#values-2) | Still? | To be answered anew: a verdict is no longer the one that the '
        "answer in study/claims.yaml was given for |\n",
        "| of 3 sentences of the paper and the slides | as defined when the first values were committed | as defined "
        "now |\n|---|---|---|\n"
        r"| holds | 0 | **1**: no. [2\*](#no-2) |"
        "\n| fails | **1**: no. [2](#no-2) | 0 |\n"
        "| undecided at this n | **1**: no. [1](#no-1) | **1**: no. [1](#no-1) |\n"
        "| not run | **1**: no. [3](#no-3) | **1**: no. [3](#no-3) |\n\n",
        "| claim | before | now | changed |\n|---|---|---|---|\n"
        "| [It spends more KL.](#chosen) | the paper's: fails, -1 | the paper's: holds | Monday |\n",
        "**History does not tell** of 1 claims whether",
        "these:\n\n- none.\n",
        "| rows | holds | mixed | undecided at this n | holds by a test | not run |\n|---|---|---|---|---|---|\n"
        "| of the paper and the slides | 0 | 0 | 1 | 1 | 2 |\n| our own | 0 | 1 | 0 | 0 | 0 |\n"
        "| added or defined anew after a look at the values | 1 | 0 | 0 | 0 | 0 |\n",
        '| <a id="values-1"></a>[1](#no-1) | KL: [undecided at this n](#spends_more), +3.000 [+0.516, +5.484] nats, n 3'
        "<br>passes: [holds by a test](#tested)<br>time: [not run](#unrun) |",
        r'| <a id="values-2"></a>[2\*](#no-2) | '
        "anew: [holds](#chosen), +3.000 [+0.516, +5.484], n 3; expected from "
        "arithmetic; formerly (the paper's) fails, -1<br>of two: [mixed](#both), ",
        "- Formerly the paper's, until Sunday, and changed perhaps after values had been seen: another measure; holds. "
        "Why.\n"
        "- Formerly the paper's, until Monday, and changed after values had been seen: another measure; fails, -1. "
        "Why.",
        "### Claims added or defined anew after a look at the values\n\n"
        "| claim | verdict | measured [interval] | n | level | where |\n|---|---|---|---|---|---|\n"
        "| [It spends more KL.](#chosen) | **holds**: expected from arithmetic; formerly (the paper's) fails, -1 "
        "| +3.000 [+0.516, +5.484] | 3 | controlled | Figure 5 |",
        "| [It spends more KL.](#both) | **mixed**: holds at β 0.1; fails at β 0.3; the mean alone: holds; "
        "two craters | +3.100 [+2.852, +3.348] | 3 | ",
        "- At β 0.3: +0.200 [-0.048, +0.448], fails.",
        "wins over the chosen answers. The judge is a die. Prompts of a replicate: 7.",
        "| controlled | By hand | all | 3 of 3 |",
        "| mars | Far |  | not run, needs a rocket |",
        "| [It spends more KL.](#spends_more) | undecided at this n | +3.000 [+0.516, +5.484] nats | 3 | controlled |",
        "| [It spends more KL.](#tested) | holds by [a test](../tests/test_dag.py) |  |  |  | Figure 5 |\n"
        "| [It spends more KL.](#unrun) | not run: needs a GPU |  |  |  | Figure 5 |",
        "| [It spends more KL.](#b) | not run: needs a rocket |  |  | mars | KL(a \\|\\| b) |",
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
    assert (mixed["verdict"], mixed["note"]) == (
        "mixed",
        "holds at β 0.1; fails at β 0.3; the mean alone: holds; two craters",
    )
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
                betas &= set(claim.measure.get("betas", betas))
                from_pairs = recipe["method"] in ("dpo", "epsilon_dpo")
                number = {"budgets": 10, "smollm2": 2, "rlhf": 3 if from_pairs else 2}
                assert len(betas) == number.get(claim.level or "", 4), (claim.id, recipe)


FOUR = {"dpo_b003", "dpo_b01", "dpo_b03", "dpo_b1"}


def test_levels_of_one_setting_have_one_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says so: by the truth the SFT policies of the same seeds win alike, and DPO's have the same bytes,
    however many commits lie between; two replicates round otherwise, as their judges do."""
    monkeypatch.chdir(ROOT)
    found = [
        {row["seed"]: row["win_rate_true"] for row in read_results(level) if row["run"] == "sft"}
        for level in ("controlled", "bfloat16", "perturbation")
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) == 8
    dpo = [
        {(row["seed"], row["run"]): row for row in read_results(level) if row["run"] in FOUR}
        for level in ("controlled", "perturbation")
    ]
    assert dpo[0].keys() == dpo[1].keys() and len(dpo[0]) == 4 * 8
    other = {key[0] for key in dpo[0] if dpo[0][key]["policy_sha256"] != dpo[1][key]["policy_sha256"]}
    assert other == {"23", "24"}, "made on another processor"
    for key in dpo[0]:
        assert float(dpo[0][key]["kl"]) == pytest.approx(float(dpo[1][key]["kl"]), rel=1e-3)


def of_recipe(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("beta", "seed", "snapshot_epochs")}
