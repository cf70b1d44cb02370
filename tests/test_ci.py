"""What continuous integration runs: the linters of the workflows, the comment on a pull request, the edits' table."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from test_dvc_commands import cheap, git, write
from whole_pipeline import BIN, ROOT, copy_project

from epsilon_dpo.pipeline.stage.params import read_yaml

PAGE = (ROOT / "docs/ci.md").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# The report of a pipeline whose stages only make files: its one metric follows one of its params.
REPORT = """
import json
from pathlib import Path

import yaml

beta = yaml.safe_load(Path("params.yaml").read_text())["runs"]["dpo"]["beta"]
Path("out/report").mkdir(parents=True, exist_ok=True)
Path("out/report/metrics.json").write_text(json.dumps({"dpo": {"win_rate": beta}}))
Path("out/report/summary.json").write_text(json.dumps({"statements": [f"dpo wins {beta}."]}))
"""


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run([*arguments], cwd=folder, env=env, text=True, capture_output=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in (".ci", ".github", "docker", "launchers"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    return tmp_path


UNSAFE = {"persist-credentials: false": "fetch-depth: 1", "@de0fac2e4500dabe0009e67214ff5f5447ce83dd": "@v6"}


@pytest.mark.parametrize(
    ("file", "edits", "said"),
    [
        (".github/workflows/audit.yml", {"timeout-minutes: 30": ""}, ["timeout-minutes"]),
        (".github/workflows/audit.yml", {"    steps:": "    stepps:"}, ["stepps"]),
        (".github/workflows/tests.yml", UNSAFE, ["artipacked", "unpinned-uses"]),
        ("compose.yaml", {"    image: postgres": "    imagine: postgres"}, ["imagine"]),
        (".ci/setup", {"set -euo pipefail": "if"}, ["syntax error"]),
    ],
    ids=["no limit of time", "a wrong key", "unsafe", "compose", "a script"],
)
def test_the_linters_find(copy: Path, file: str, edits: dict[str, str], said: list[str]) -> None:
    """That they pass as it stands is `make check`'s."""
    text = (copy / file).read_text("utf-8")
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    (copy / file).write_text(text, "utf-8")
    done = script(copy, ".ci/lint")
    assert done.returncode != 0 and all(one in done.stdout + done.stderr for one in said), done.stdout + done.stderr


def test_a_workflow_holds_no_logic_of_its_own() -> None:
    """Each command is one line, most often a script of .ci/ or a target of the Makefile, which runs on any machine."""
    for file in WORKFLOWS:
        for job in read_yaml(file)["jobs"].values():
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert all(not re.search(r"\n|&&|;|\$\{\{", command) for command in commands), file.name
            assert all((ROOT / command.split()[0]).exists() for command in commands if command.startswith(".ci/"))


def test_every_target_of_ci_run_is_in_a_workflow_and_every_workflow_on_the_page() -> None:
    targets = set(re.findall(r"^make ([\w-]+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE))
    run: set[str] = set()
    for file in WORKFLOWS:
        for job in read_yaml(file)["jobs"].values():
            for step in job["steps"]:
                if (command := step.get("run", "")) == 'make "$TARGET"':
                    run |= set(job["strategy"]["matrix"]["target"])
                elif command.startswith("make "):
                    run.add(command.removeprefix("make "))
    assert len(targets) > 4 and targets <= run
    assert all(f"| `{file.name}` |" in PAGE for file in WORKFLOWS)


def test_what_contributing_says_of_ci_run() -> None:
    said = re.search(r"`\.ci/run` runs (.*?)\.\n", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
    targets = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE)
    assert said is not None and sorted(re.findall(r"`make ([\w-]+)`", said[1])) == sorted(targets)


def test_an_exception_of_the_audit_needs_a_reason(copy: Path) -> None:
    with (copy / ".ci/audit-exceptions.txt").open("a") as file:
        file.write("PYSEC-2026-1\n")
    done = script(copy, ".ci/audit")
    assert done.returncode == 1 and "gives no reason for PYSEC-2026-1" in done.stdout
    assert not (copy / ".venv-audit").exists()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits that differ in one run's beta; three stages, which only make files."""
    project = copy_project(tmp_path_factory.mktemp("ci") / "project")
    shutil.copytree(ROOT / ".ci", project / ".ci")
    (project / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    content = read_yaml(project / "dvc.yaml")
    stages = {name: cheap(content["stages"][name]) for name in ("check", "fetch", "report")}
    (project / "stages/report.py").write_text(REPORT)
    stages["report"] |= {"cmd": "python stages/report.py", "deps": ["out/fetch", "stages/report.py"]}
    write(project / "dvc.yaml", {"stages": stages, "metrics": content["metrics"]})
    params = read_yaml(project / "params.yaml")
    params["runs"] = {"dpo": {"method": "dpo", "beta": 0.3}}
    write(project / "params.yaml", params)
    git(project, "add", ".")
    git(project, "commit", "-qm", "base")
    params["runs"]["dpo"]["beta"] = 0.2
    write(project / "params.yaml", params)
    git(project, "commit", "-qam", "head")
    return project


@pytest.mark.slow
def test_the_comment_on_a_pull_request(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of somebody who signs commits, by a key that nobody unlocks here."""
    (tmp_path / "gitconfig").write_text(
        "[user]\nname = a\nemail = a@b\n[commit]\ngpgsign = true\n[tag]\ngpgsign = true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("SHOWN_AS", "0123456789abcdef")
    assert script(project, "git", "tag", "--no-sign", "base").returncode == 0, "of the project's own"
    done = script(project, ".ci/pull-request", "HEAD~1")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert done.stdout.startswith("## 0123456789 against ")
    assert ["params.yaml", "runs.dpo.beta", "0.3", "0.2"] in [row[:4] for row in rows], done.stdout
    assert ["out/report/metrics.json", "dpo.win_rate", "0.3", "0.2", "-0.1"] in rows, done.stdout
    assert done.stdout.rstrip().endswith("### What the report says\n\n- dpo wins 0.2.")
    assert script(project, "git", "status", "--porcelain").stdout == "", "it works in a clone"
    again = script(project, ".ci/pull-request", "HEAD~1")
    ran = {line.split("'")[1] for line in again.stderr.splitlines() if line.startswith("Running stage")}
    assert again.stdout == done.stdout and ran == {"check"}, "all that DVC caches was in the project's cache"


@pytest.mark.slow
def test_the_comment_knows_data_of_ones_own_and_a_cache_elsewhere(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "project", symlinks=True)
    shutil.rmtree(copy / ".dvc/cache", ignore_errors=True)
    (copy / "data/mine").mkdir(parents=True)
    (copy / "data/mine/rows.jsonl").write_text("{}\n")
    (copy / "stages/report.py").write_text(f"{REPORT}assert Path('data/mine/rows.jsonl').read_text() == '{{}}\\n'\n")
    git(copy, "commit", "-qam", "reads data of one's own")
    assert script(copy, "dvc", "cache", "dir", "--local", str(tmp_path / "cache")).returncode == 0
    done = script(copy, ".ci/pull-request", "HEAD")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache/files").rglob("*"))
    assert not (copy / ".dvc/cache").exists()


# As a stage does that depends on a package: it runs with the version that its commit pins, and with no other.
PINNED = """
import sys
from importlib.metadata import version

pinned = yaml.safe_load(Path("pins.yaml").read_text())["numpy"]
if pinned != version("numpy"):
    sys.exit(f"numpy is {version('numpy')} here, and pins.yaml says {pinned}")
"""


@pytest.mark.slow
def test_a_package_that_moved_is_shown_where_the_base_does_not_run_with_it(project: Path) -> None:
    before = script(project, "git", "rev-parse", "HEAD").stdout.strip()
    try:
        (project / "stages/report.py").write_text(REPORT + PINNED)
        shutil.copy(ROOT / "requirements.txt", project)
        pins = {file: (project / file).read_text() for file in ("pins.yaml", "requirements.txt")}
        for file, text in pins.items():
            old = re.sub(r'^(numpy(?:: "|==)).*?("|$)', r"\g<1>1.2.3\2", text, flags=re.MULTILINE)
            assert old != text
            (project / file).write_text(old)
        git(project, "add", ".")
        git(project, "commit", "-qm", "an older numpy")
        for file, text in pins.items():
            (project / file).write_text(text)
        git(project, "commit", "-qam", "numpy moved")
        done = script(project, ".ci/pull-request", "HEAD~1")
    finally:
        git(project, "reset", "-q", "--hard", before)
    assert done.returncode == 0, done.stderr
    assert "numpy is " in done.stderr and "\n-numpy==1.2.3\n+numpy==" in done.stdout, done.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert ["pins.yaml", "numpy", "1.2.3"] in [row[:3] for row in rows], done.stdout
    assert "### Metrics\n\nNot compared: " in done.stdout
    assert done.stdout.rstrip().endswith("### What the report says\n\n- dpo wins 0.2.")


@pytest.mark.slow
def test_a_pipeline_that_fails_is_no_comment(project: Path) -> None:
    (project / "stages/report.py").write_text("raise SystemExit(1)\n")
    git(project, "commit", "-qam", "broken")
    done = script(project, ".ci/pull-request", "HEAD~1")
    git(project, "reset", "-q", "--hard", "HEAD~1")
    assert done.returncode != 0 and done.stdout == ""


@pytest.fixture(scope="module")
def edits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edits", ROOT / "docker/edits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_edit_fits_what_it_changes(edits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_project(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    shutil.copy("presets/smoke.yaml", "params.yaml")
    for edit in edits.EDITS:
        before = Path(edit.file).read_text("utf-8")
        Path(edit.file).write_text(changed := edits.changed(edit), "utf-8")
        assert changed != before
    assert "tr_dpo" not in read_yaml(Path("params.yaml"))["runs"]


def test_an_edit_that_runs_more_or_less_ends_the_script(edits: ModuleType) -> None:
    edits.expect("an edit", {"check"}, {"check"}, 0.0)
    with pytest.raises(SystemExit, match=r"ran beside those expected: \['sft'\]; did not run: \['report'\]"):
        edits.expect("an edit", {"check", "sft"}, {"check", "report"}, 0.0)


WRITER = """
import time
from pathlib import Path

Path("begun").touch()
while not Path("go").exists():
    time.sleep(0.05)
Path("closed").touch()
"""


@pytest.mark.slow
def test_a_stopped_container_waits_for_the_writer_of_mlflows_run(tmp_path: Path) -> None:
    """By a stop of the whole group, as tini makes one; the writer is in a session of its own, as ours is."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (lock := tmp_path / ".dvc/tmp/rwlock").write_text("{}")
    (tmp_path / "mlflow_writer.py").write_text(WRITER)
    (tmp_path / "run.sh").write_text(f"setsid {sys.executable} mlflow_writer.py & sleep 60")
    entry = ["sh", str(ROOT / "docker/entry.sh"), "sh", "run.sh"]
    process = subprocess.Popen(entry, cwd=tmp_path, start_new_session=True)
    try:
        for _ in range(600):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.1)
        assert not lock.exists(), "the processes that it names are those of another container"
        os.killpg(process.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        (tmp_path / "go").touch()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert (tmp_path / "closed").exists()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_second_container_leaves_the_lock_of_the_first_and_the_next_one_removes_it(tmp_path: Path) -> None:
    lock, go = tmp_path / ".dvc/tmp/rwlock", tmp_path / "go"
    lock.parent.mkdir(parents=True)
    held = "touch .dvc/tmp/rwlock; until [ -e go ]; do sleep 0.05; done; test -e .dvc/tmp/rwlock"
    entry = ["sh", str(ROOT / "docker/entry.sh")]
    first = subprocess.Popen([*entry, "sh", "-c", held], cwd=tmp_path)
    until = time.monotonic() + 30
    while not lock.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert script(tmp_path, *entry, "true").returncode == 0
    go.touch()
    assert first.wait(30) == 0
    assert script(tmp_path, *entry, "test", "!", "-e", ".dvc/tmp/rwlock").returncode == 0


@pytest.mark.slow
def test_the_entry_point_hands_on_how_its_command_ended(tmp_path: Path) -> None:
    assert script(tmp_path, "sh", str(ROOT / "docker/entry.sh"), "sh", "-c", "exit 7").returncode == 7
