"""DVC sees a change of local data, reads nothing stale, and fetch writes what the stages after it need."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from own_data import BLOCK, pairs_of, read
from processes_of_tests import until, until_gone
from ruamel.yaml import YAML
from whole_pipeline import BIN, ROOT, copy_project, dvc, environment, link_files

from epsilon_dpo.data.sources.loading import read_source
from epsilon_dpo.data.sources.params import WATCHED, HHSource
from epsilon_dpo.data.sources.watched import refuse_unwatched_within
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import parse, read_yaml


def rows(word: str) -> list[dict[str, str]]:
    return [{"prompt": f"{word} {n}", "chosen": "good", "rejected": "bad"} for n in range(40)]


def write_rows(file: Path, content: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose fetch reads data/mine/train.jsonl, a link to a file elsewhere."""
    copy = copy_project(tmp_path / "project")
    write_rows(tmp_path / "elsewhere/train.jsonl", [*rows("old"), {"prompt": "tie", "chosen": "a", "rejected": None}])  # type: ignore[dict-item]
    link_files(tmp_path / "elsewhere", copy / "data/mine")
    content: dict[str, Any] = read_yaml(copy / "params.yaml")
    content["fetch"] = {**BLOCK, "path": "data/mine/train.jsonl"}
    with (copy / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    return copy


def first_prompt(project: Path) -> str:
    return json.loads((project / "out/fetch/train.jsonl").read_text("utf-8").split("\n")[0])["chosen"][0]["content"]


def test_data_is_a_dependency_that_dvcignore_does_not_hide() -> None:
    from dvc.repo import Repo

    assert WATCHED in read_yaml(ROOT / "dvc.yaml")["stages"]["fetch"]["deps"]
    ignore = Repo(str(ROOT)).dvcignore
    assert not ignore.is_ignored_dir(str(ROOT / "data")) and not ignore.is_ignored_file(str(ROOT / "data/mine/a.jsonl"))
    assert ignore.is_ignored_file(str(ROOT / "data/a.jsonl~")), "watched.py says so"
    assert all(ignore.is_ignored_dir(str(ROOT / "data/mine" / name)) for name in (".git", ".cache"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/mine/train.jsonl in a folder of its own, which is the working one."""
    monkeypatch.chdir(tmp_path)
    write_rows(Path("data/mine/train.jsonl"), rows("own"))
    return Path("data/mine")


def test_a_folder_of_git_or_hf_is_read_and_its_records_passed_over(own: Path) -> None:
    write_rows(own / ".cache/huggingface/download/train.jsonl", rows("other"))
    (own / ".git/annex").mkdir(parents=True)
    (own / ".git/annex/lost").symlink_to("nowhere")
    assert len(pairs_of(read())) == 40


def test_what_is_read_is_nowhere_hidden_from_dvc(own: Path) -> None:
    write_rows(own / ".cache/inner/train.jsonl", rows("hidden"))
    head = "configs:\n- config_name: default\n  data_files: .cache/inner/train.jsonl"
    (own / "README.md").write_text(f"---\n{head}\n---\n", "utf-8")
    with pytest.raises(UserError, match=r"data/mine/\.cache has a name that DVC ignores"):
        read()
    hh = {"source": "hh", "repo": None, "revision": None, "folder": "data", "subsets": ["mine/.cache"]}
    limits = {"eval_share": 0.5, "max_train_pairs": None, "max_eval_pairs": None}
    with pytest.raises(UserError, match=r"data/mine/\.cache has a name that DVC ignores"):
        read_source(parse(HHSource, {**hh, **limits, "train_split": "x", "eval_split": "x"}), 1, Path("scratch"))


@pytest.mark.parametrize("folder", ["data", "data/mine", "data/mine/deeper"])
def test_rules_of_what_dvc_ignores_are_refused_within(own: Path, folder: str) -> None:
    from dvc.repo import Repo

    (own / "deeper").mkdir()
    Path(folder, ".dvcignore").write_text("*.jsonl\n", "utf-8")
    hidden = Path(folder, "train.jsonl")
    hidden.touch()
    assert Repo.init(".", no_scm=True).dvcignore.is_ignored_file(str(hidden.resolve()))
    with pytest.raises(UserError, match=f"^{folder}/.dvcignore may hide files from DVC"):
        refuse_unwatched_within(own)


def test_a_dvc_project_within_is_refused(own: Path) -> None:
    """DVC passes over all of it."""
    from dvc.repo import Repo

    (own / ".dvc").mkdir()
    assert Repo.init(".", no_scm=True).dvcignore.is_ignored_dir(str(own.resolve()))
    for path in ("data", "data/mine", "data/mine/train.jsonl"):
        with pytest.raises(UserError, match="data/mine is a DVC project of its own"):
            refuse_unwatched_within(Path(path))


@pytest.mark.slow
def test_a_changed_file_is_fetched_again_and_never_served_from_the_cache(project: Path, tmp_path: Path) -> None:
    done = dvc(project, "repro", "fetch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rows dropped" in done.stdout and first_prompt(project).startswith("old")
    assert "null" in (project / "out/fetch/dropped.jsonl").read_text("utf-8")
    assert dvc(project, "status", "fetch").stdout.strip() == "Data and pipelines are up to date."

    write_rows(tmp_path / "elsewhere/train.jsonl", rows("new"))
    assert "modified:           data" in dvc(project, "status", "fetch").stdout
    # As in the report: a forced run of fetch is ended before it is done, and the next one is an ordinary one.
    recorded = read_yaml(project / "dvc.lock")["stages"]["fetch"]
    code = project / "stages/fetch.py"
    as_it_was = code.read_text("utf-8")
    code.write_text(as_it_was.replace("    rows = ", "    import time; time.sleep(600)\n    rows = ", 1), "utf-8")
    command = [str(BIN / "dvc"), "repro", "-f", "fetch"]
    forced = subprocess.Popen(
        command, cwd=project, env=environment(project), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: list((project / "scratch/partial").glob("fetch*")), within_s=120.0)
    stage = int((project / "scratch/locks/fetch.lock").read_text("utf-8").split()[0])
    forced.send_signal(signal.SIGTERM)
    assert forced.wait(60) == -signal.SIGTERM
    until_gone(stage, within_s=60.0)
    code.write_text(as_it_was, "utf-8")
    assert read_yaml(project / "dvc.lock")["stages"]["fetch"] == recorded, "it was done"
    done = dvc(project, "repro", "fetch")
    assert done.returncode == 0, done.stdout + done.stderr
    assert first_prompt(project).startswith("new")
    assert not (project / "out/fetch/dropped.jsonl").read_text("utf-8")
    assert dvc(project, "status", "fetch").stdout.strip() == "Data and pipelines are up to date."
