"""What dvc.yaml says in `meta` of outputs that never change: the stage writes the same bytes whatever it reads.

`epsilon-dpo plan` relies on it: each edit of params.yaml re-runs `check`, on which all others depend.
"""

import runpy
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from test_rerun import CONSTANT
from untracked import run_untracked

from epsilon_dpo.pipeline.stage.params import read_yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = {name: entry.get("do", entry) for name, entry in read_yaml(ROOT / "dvc.yaml")["stages"].items()}
DECLARED = {name: entry["meta"] for name, entry in STAGES.items() if "meta" in entry}


def test_they_are_those_after_which_nothing_runs_again() -> None:
    assert set(DECLARED) == CONSTANT
    for meta in DECLARED.values():
        assert meta == {"constant": True} or read_yaml(ROOT / "params.yaml")[meta["constant_while_null"]] is None


@pytest.mark.parametrize("stage", DECLARED)
def test_the_same_bytes_whatever_is_read(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    run_untracked(monkeypatch)
    made = []
    for number in (1, 2):
        project = tmp_path / str(number)
        project.mkdir()
        monkeypatch.chdir(project)
        made.append(run_alone(project, stage, number))
    assert made[0] == made[1] and made[0]


def run_alone(project: Path, stage: str, number: int) -> dict[str, bytes]:
    """The output of `stage` on params and data that no other `number` has."""
    for name in ("src", "stages", "dvc.yaml", "pins.yaml"):
        (project / name).symlink_to(ROOT / name)
    content = read_yaml(ROOT / "params.yaml")
    content["seed"], content["threads"], content["judge"]["batch_size"] = number, number, number
    with (project / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    for dep in (dep for dep in STAGES[stage]["deps"] if dep.startswith("out/")):
        path = project / dep if Path(dep).suffix else project / dep / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"something {number}")
    if stage == "ranking":  # what stage candidates leaves where nobody asks for candidates
        (project / "out/candidates/samples.jsonl").write_text("")
    runpy.run_module(f"stages.{stage}", run_name="__main__")
    outs = [project / (out if isinstance(out, str) else next(iter(out))) for out in STAGES[stage]["outs"]]
    files = [file for out in outs for file in (out, *out.rglob("*")) if file.is_file()]
    return {str(file.relative_to(project)): file.read_bytes() for file in files}
