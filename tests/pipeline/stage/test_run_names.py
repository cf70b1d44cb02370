"""A run's name comes from params.yaml, which may be somebody else's: no shell may read it, with or without `check`."""

import os
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from whole_pipeline import ROOT, copy_project, dvc

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.execution import run_argument
from epsilon_dpo.pipeline.stage.fingerprint import stage_entry
from epsilon_dpo.pipeline.stage.params import read_yaml

FILES = ("dvc.yaml", "external/dvc.yaml")
# What a shell would run wherever the name stood: in double quotes, without quotes, on a line, in single quotes.
EVERYWHERE = ["$(touch pwned)", "; touch pwned;", "x\ntouch pwned\n", "'; touch pwned; '"]
EVIL = [
    *EVERYWHERE,
    "`touch pwned`",
    "x && touch pwned",
    "x | touch pwned",
    '"; touch pwned; "',
    "' && touch pwned && echo \"",
]
ALIGN = """
from epsilon_dpo.pipeline.stage.execution import run_argument, run_stage
with run_stage("align", run_argument()) as stage:
    (stage.out / "run").write_text(run_argument())
"""


@pytest.mark.parametrize("file", FILES)
def test_no_command_holds_a_name(file: str) -> None:
    """Else a shell reads the name; quotes would not help, as a name may hold quotes, too."""
    stages = read_yaml(ROOT / file)["stages"]
    commands = [stage.get("do", stage)["cmd"] for stage in stages.values()]
    assert commands and not [command for command in commands if "$" in command]


def runs(project: Path, content: dict[str, Any]) -> None:
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({**read_yaml(ROOT / "params.yaml"), "runs": content}, file)


@pytest.mark.slow
def test_no_name_of_a_run_is_executed(tmp_path: Path) -> None:
    """`dvc repro -s align` runs no stage `check`. The stage is dvc.yaml's, but for what it needs and what it trains."""
    project = copy_project(tmp_path / "project")
    stage = read_yaml(ROOT / "dvc.yaml")["stages"]["align"]
    stage["do"] |= {"deps": ["stages/align.py"]}
    with (project / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({"stages": {"align": stage}}, file)
    (project / "stages" / "align.py").write_text(ALIGN)
    runs(project, {name: {"method": "dpo", "beta": 0.1} for name in [*EVERYWHERE, "fine"]})
    done = dvc(project, "repro", "-s", "-k", "align")
    assert not list(tmp_path.rglob("pwned"))
    assert done.returncode != 0
    assert done.stderr.count("is no name of a run") == len(EVERYWHERE), done.stdout + done.stderr
    assert (project / "out" / "align" / "fine" / "run").read_text() == "fine"
    assert sorted(os.listdir(project / "out" / "align")) == ["fine", "metrics"]


@pytest.mark.parametrize("name", [*EVIL, "../../elsewhere", "A", "a.b", "a\n", "a" * 101, ""])
def test_a_stage_refuses_such_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that leads out of the stage's folder."""
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    runs(tmp_path, {name: {"method": "dpo", "beta": 0.1}})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is no name of a run") as refusal:
        stage_entry("align", name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("addressing", "run"),
    [("align@dpo", "dpo"), ("external/dvc.yaml:answers@sft_mt_bench", "sft_mt_bench"), ("a@b/dvc.yaml:kl@x", "x"),
     ("report", ""), ("a@b/dvc.yaml:report", "")],
)  # fmt: skip
def test_dvc_says_which_run_it_is(addressing: str, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stages.align"])
    monkeypatch.setenv("DVC_STAGE", addressing)
    assert run_argument() == run
    monkeypatch.setattr("sys.argv", ["stages.align", "named"])
    assert run_argument() == "named"
