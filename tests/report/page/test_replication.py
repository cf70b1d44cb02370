"""The replication study on the page: its verdicts as it wrote them, and apart from the page's own runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import write_json
from epsilon_dpo.report.page.page import write_report
from epsilon_dpo.report.page.replication import read_replication
from epsilon_dpo.report.page.results import read_results

LEVELS = {
    "controlled": {"title": "By hand", "replicates": "3 of 4"},
    "moon": {"title": "Where nobody was", "replicates": "not run"},
}
MEASURED = {
    "claim": "It spends more KL.",
    "level": "controlled",
    "value": -0.0004,
    "low": -0.516,
    "high": 5.484,
    "unit": "nats",
    "n": 3,
    "verdict": "fails",
    "note": "",
    "post_hoc": True,
}
NOTHING = {"value": None, "low": None, "high": None, "n": 0, "note": "", "post_hoc": False}
UNMEASURABLE = MEASURED | NOTHING | {"n": 2, "verdict": "not measurable", "note": "seed 3, no kl", "ranges": []}
TESTED = MEASURED | NOTHING | {"claim": "No extra pass.", "level": None, "unit": "", "verdict": "by a test"}
NOT_RUN = MEASURED | NOTHING | {"claim": "It flies.", "level": "moon", "verdict": "not run", "note": "needs a rocket"}


def write(file: Path, *claims: dict[str, Any]) -> Path:
    write_json(file, {"confidence": 0.9, "levels": LEVELS, "claims": list(claims)})
    return file


def test_what_the_study_says_is_shown_and_what_it_did_not_run_is_counted(
    outputs: Callable[..., Path], runs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    results = read_results(outputs(), runs)
    pages = []
    for name, claims in (("shown", (MEASURED, UNMEASURABLE, TESTED, NOT_RUN)), ("none", (NOT_RUN,))):
        (tmp_path / name).mkdir()
        found = read_replication(write(tmp_path / f"{name}.json", *claims))
        write_report(results, 0, tmp_path / name, replication=found)
        pages.append(" ".join((tmp_path / name / "report.html").read_text("utf-8").replace(' class="n"', "").split()))
    shown, none = pages
    for said in (
        "where the 90 % interval",
        "<em>controlled</em>: By hand; 3 of 4 replicates.",
        "It spends more KL.</th><td>controlled</td><td>+0.000<small>−0.516 to +5.484</small></td><td>nats</td>"
        "<td>3</td><td><strong>fails</strong> (added or defined anew after a look at the values)</td>",
        "<td>controlled</td><td>–</td><td>nats</td><td>2</td><td>not measurable: seed 3, no kl</td>",
        "No extra pass.</th><td>–</td><td>–</td><td>–</td><td>–</td><td>holds by a test</td>",
        "1 more claim is stated there and not run",
    ):
        assert said in shown, said
    assert "It flies." not in shown and "Where nobody was" not in shown
    assert 'id="replication"' not in none


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"confidence": 0.95, "levels": {}, "claims": [{"claim": "It wins."}]}']
)
def test_another_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "verdicts.json"
    for says in ("is not what the study says", "`epsilon-dpo study page` writes it anew"):
        with pytest.raises(UserError, match=says):
            read_replication(file)
        file.write_text(content, "utf-8")


def test_a_level_that_is_not_described_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not what the study says"):
        read_replication(write(tmp_path / "verdicts.json", MEASURED | {"level": "sun"}))
