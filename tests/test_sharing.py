"""Results through a remote: a folder, and a server that speaks S3. What a fresh clone fetches, and what it need not.

The stages are the repository's own; their commands only make outputs, those of `align` with weights of a size.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from test_dvc_commands import cheap, dvc, git, write
from whole_pipeline import BIN, ROOT, copy_project
from whole_pipeline import dvc as in_a_process

from epsilon_dpo.pipeline.stage.params import read_yaml

pytestmark = pytest.mark.slow

OF_A_RUN = ("sample", "score", "kl", "monotonicity")
WEIGHTS = 200_000  # bytes of a policy
# What fetches what the comparison reads of runs that are as they were.
COMPARED = next(
    line for line in (ROOT / "docs/dvc.md").read_text("utf-8").splitlines() if line.startswith("dvc pull $(")
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reproduced and committed with its lock; the remote `store` holds its results."""
    project = copy_project(tmp_path_factory.mktemp("sharing") / "project")
    (project / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    content = read_yaml(project / "dvc.yaml")
    stages = {name: cheap(stage) for name, stage in content["stages"].items()}
    align, scorer = stages["align"]["do"], stages["scorer"]
    align["cmd"] += f' && (cat params.yaml; yes "$DVC_STAGE") | head -c {WEIGHTS} > "out/align/${{key}}/weights"'
    stages["sample"]["do"]["cmd"] = stages["sample"]["do"]["cmd"].replace("head -5", "cat")
    align["deps"] = [dep for dep in align["deps"] if not dep.startswith("out/scorer")]
    scorer["deps"] = [dep for dep in scorer["deps"] if dep.startswith("out/")]
    write(project / "dvc.yaml", content | {"stages": stages})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        dvc("remote", "add", "-d", "store", str(project.parent / "store"))
        dvc("repro", "-q")
        dvc("push", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "results")
    return project


def clone_of(project: Path, name: str) -> Path:
    git(project.parent, "clone", "-q", str(project), name)
    return project.parent / name


def ran(clone: Path, *arguments: str) -> set[str]:
    """The stages that `dvc repro` ran."""
    done = in_a_process(clone, "repro", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}


def size(cache: Path) -> int:
    return sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())


def test_one_changed_run_fetches_no_other_policy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone := clone_of(project, "one"))
    params = read_yaml(Path("params.yaml"))
    params["runs"]["tr_dpo"]["beta"] = 0.123
    write(Path("params.yaml"), params)
    subprocess.run(["sh", "-c", COMPARED], check=True, env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"})
    of_others = [f"{stage}/{run}" for stage in (*OF_A_RUN, "align/metrics") for run in ("dpo", "epsilon_dpo")]
    assert all(list(Path("out", name).iterdir()) for name in of_others)
    own = {f"{stage}@tr_dpo" for stage in ("align", *OF_A_RUN)}
    assert ran(clone, "--pull", "--allow-missing") == own | {"tournament", "figures", "report"}
    assert WEIGHTS < size(Path(".dvc/cache")) < 1.5 * WEIGHTS, "the run's own policy, and small files"
    assert not Path("out/align/dpo/weights").exists() and Path("out/align/tr_dpo/weights").is_file()
    params["runs"]["tr_dpo"]["beta"] = 0.2
    write(Path("params.yaml"), params)
    again = ran(clone, "--pull", "--allow-missing")
    assert again == own | {"tournament", "figures", "report"}, "what was fetched by then is complete"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("ID", "SECRET"):
        monkeypatch.setenv(f"AWS_{'ACCESS_KEY_ID' if name == 'ID' else 'SECRET_ACCESS_KEY'}", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    import boto3

    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="dvc")
    yield f"http://{host}:{port}"
    server.stop()


def test_a_clone_that_pulls_from_an_s3_server_runs_nothing(
    project: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (project, clone := clone_of(project, "far")):
        monkeypatch.chdir(folder)
        dvc("remote", "add", "-q", "--local", "far", "s3://dvc/cache")
        dvc("remote", "modify", "-q", "--local", "far", "endpointurl", s3)
        dvc(*(["push", "-q", "-r", "far"] if folder == project else ["pull", "-q", "-r", "far"]))
    assert ran(clone) == set()
    subprocess.run(["git", "diff", "--exit-code"], check=True)
    assert Path("out/report/file").read_bytes() == (project / "out/report/file").read_bytes()
