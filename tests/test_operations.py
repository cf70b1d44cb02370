"""What the image, `make clean` and the pages on servers and clusters tell a shell."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest
from mlflow.environment_variables import MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_USERNAME
from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request
from whole_pipeline import ROOT

from epsilon_dpo.pipeline.stage.params import read_yaml

LOGIN = (MLFLOW_TRACKING_USERNAME.name, MLFLOW_TRACKING_PASSWORD.name)


def test_a_number_that_no_passwd_knows_has_a_name_in_the_image() -> None:
    """DVC and MLflow ask getpass, which ends in a KeyError where neither a variable nor passwd has one."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("only root can become another user")
    user = re.search(r"^ENV .*?(USER=\w+)", (ROOT / "Dockerfile").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert user is not None
    asked = ["/usr/bin/env", "-i", user[1], setpriv, "--reuid", "12345", sys.executable]
    done = subprocess.run([*asked, "-c", "import getpass; getpass.getuser()"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_lock_between_containers_is_one_that_nfs_grants(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    entry = ["sh", str(ROOT / "docker/entry.sh")]
    done = subprocess.run([*entry, "cat", "/proc/self/fdinfo/9"], cwd=tmp_path, capture_output=True, text=True)
    [flags] = re.findall(r"^flags:\s*(\d+)$", done.stdout, re.MULTILINE)
    assert int(flags, 8) & os.O_ACCMODE == os.O_RDWR


def test_clean_leaves_what_jobs_have_paid_for_and_what_no_cache_has(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    stay = ["cache/judge/answers.sqlite", "scratch/jobs/0/cache/judge/answers.sqlite", "scratch/removed/align-dpo/a"]
    for name in ("out/a", "scratch/locks/a", *stay):
        (file := tmp_path / name).parent.mkdir(parents=True)
        file.touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert left == ["Makefile", *stay]


def test_a_server_by_hand_answers_its_page_and_its_clients() -> None:
    page = (ROOT / "docs/server.md").read_text("utf-8")
    found = re.search(r"export ALLOWED_HOSTS='([^']+)' ALLOWED_ORIGINS=(\S+)", page)
    assert found is not None
    hosts, origins = found[1].split(","), found[2].split(",")
    clients = re.findall(r"https?://mlflow\.example\.org[:\d]*", (ROOT / "docs/scale.md").read_text("utf-8"))
    assert clients
    for address in [*clients, *origins]:
        assert is_allowed_host_header(hosts, urlparse(address).netloc)
    assert not should_block_cors_request(origins[0], "POST", origins)
    assert should_block_cors_request(origins[0], "POST", None), "the page would need no origin"


@pytest.mark.parametrize(("conditions", "code"), [("FailureTarget Failed", 1), ("SuccessCriteriaMet Complete", 0)])
def test_a_job_of_kubernetes_ends_as_it_ended(tmp_path: Path, conditions: str, code: int) -> None:
    [job] = re.findall(r"^job\(\) \{.*?^\}", (ROOT / "docs/scale.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for name, does in {"kubectl": f'[ "$1" != get ] || echo "{conditions}"', "envsubst": "cat", "sleep": ""}.items():
        (command := tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        command.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", f"{job}\njob shared 1"], cwd=ROOT, env=env, timeout=30, check=False)
    assert done.returncode == code


def recipe(section: str) -> str:
    """The commands of a section of docs/scale.md."""
    text = (ROOT / "docs/scale.md").read_text("utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("section", ["Slurm", "Kubernetes", "Spot GPUs with SkyPilot"])
def test_jobs_are_given_the_login_that_the_server_demands(section: str) -> None:
    assert all(f"{name}=…" in recipe(section) for name in LOGIN)


def test_the_login_of_kubernetes_stands_in_no_command() -> None:
    assert "--from-env-file=../epsilon-dpo.env" in recipe("Kubernetes") and "--from-literal" not in recipe("Kubernetes")


def test_a_recipe_for_kubernetes_may_be_said_twice(tmp_path: Path) -> None:
    """`kubectl create` refuses what is there, and the pods would go on with the params of before."""
    setup = recipe("Kubernetes").split("\njob()")[0].partition("\n")[2]  # without the image
    does = 'case "$1 $*" in "create "*--dry-run=client*) echo "$3" ;; "apply "*) cat >>applied ;; *) exit 1 ;; esac'
    (command := tmp_path / "kubectl").write_text(f"#!/bin/sh\n{does}\n")
    command.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-euc", setup], cwd=tmp_path, env=env, timeout=30, check=True)
    assert (tmp_path / "applied").read_text().split() == ["epsilon-dpo-params", "generic"]


def test_skypilot_is_given_every_secret_of_its_task() -> None:
    given = set(re.findall(r"--secret (\w+)", recipe("Spot GPUs with SkyPilot")))
    assert given == set(read_yaml(ROOT / "launchers/skypilot/run.yaml")["secrets"]) >= set(LOGIN)


def test_a_copy_with_rows_that_no_server_has_is_not_called_superfluous() -> None:
    page = re.sub(r"\s+", " ", (ROOT / "docs/scale.md").read_text("utf-8"))
    assert "`rm -rf scratch/jobs` is safe, unless `scratch/jobs/*/mlruns/pending` holds rows" in page


def test_the_page_on_servers_names_each_variable_of_compose() -> None:
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text("utf-8")))
    page = (ROOT / "docs/server.md").read_text("utf-8")
    assert "MLFLOW_USER" in read and all(re.search(rf"\b{name}\b", page) for name in read)
