"""What the pipeline costs beside its work: a `dvc repro` that has nothing to do, the start of every stage, many runs.

    python benchmarks/pipeline.py                     # the repository in the current folder, which `make repro` has run
    python benchmarks/pipeline.py FOLDER --only noop
    python benchmarks/pipeline.py FOLDER --only start --rounds 3
    python benchmarks/pipeline.py --only runs --runs 5 10 20   # nothing need have run there

Nothing to do, taken in turns:

    bare          DVC alone on the same graph: the same dvc.yaml, params.yaml, dependencies and outputs in a folder of
                  its own, where every command is `true`
    short_deps    the same, but no stage names the code it imports, as dvc.yaml is often written: what exact
                  dependencies cost
    dvc_repro     `dvc repro` here
    make_repro    what `make repro` runs: the check of params.yaml, `dvc repro`, and the marks of the report's rows

The start of a stage is its time until it has read its params, inside run_stage with its MLflow run open, against
`python -c "import torch, transformers"`; `entire` is the stage without its work, the record of its MLflow run included.
Stages are started in a copy of the project with a store of its own.

Many runs: CPU time of one `dvc repro` and of `launchers/local.sh` on a params.yaml with as many runs, where a stage's
command only makes its outputs. What is left is DVC, and in groups the making of the copies.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lockstep import machine
from ruamel.yaml import YAML

Command = Sequence[str]
BARE = (sys.executable, "-c", "import torch, transformers")
HOW = {"one": ("dvc", "repro", "-q"), "groups": ("launchers/local.sh", "1")}
# Runs a stage up to the return of the call that reads its params. $STARTED is the moment the process was made.
START = """
import os, runpy, sys, time
from epsilon_dpo.pipeline.stage import params as strict
def stopping(load):
    def loaded(*args, **kwargs):
        load(*args, **kwargs)
        print(time.time() - float(os.environ["STARTED"]), file=sys.stderr)
        sys.exit(0)
    return loaded
strict.load = stopping(strict.load)
name = sys.argv[1]
if name == "check":
    from epsilon_dpo.check import params_file as file
    file.load_file = stopping(file.load_file)
sys.argv = ["-m", *sys.argv[2:]]
runpy.run_module(f"stages.{name}", run_name="__main__")
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, nargs="?", default=Path.cwd())
    parser.add_argument("--only", choices=("noop", "start", "runs"), help="noop and start, unless stated")
    parser.add_argument("--rounds", type=int, help="10 of the one, 1 of the other, unless stated")
    parser.add_argument("--runs", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--how", choices=HOW, nargs="+", default=list(HOW), help="100 runs in one take an hour")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    project = args.project.resolve()
    if args.only == "runs":
        print(machine())
        with tempfile.TemporaryDirectory() as scratch:
            many_runs(project, Path(scratch), args.runs, args.how)
        return
    refuse_what_is_not_reproduced(project)
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        if args.only != "start":
            noop(project, Path(scratch), args.rounds or 10)
        if args.only != "noop":
            start(project, Path(scratch), args.rounds or 1)


def refuse_what_is_not_reproduced(project: Path) -> None:
    if not (project / "dvc.yaml").is_file() or not (project / "dvc.lock").is_file():
        raise SystemExit(f"{project} has no dvc.yaml with a dvc.lock: name a repository where `make repro` has run.")
    said = run(["dvc", "repro", "--dry"], project, capture=True)
    if "Running stage" in said:
        raise SystemExit(f"{project} is not reproduced, `dvc repro` would run a stage: run `make repro` there first.")


def noop(project: Path, scratch: Path, rounds: int) -> None:
    repro = [["dvc", "repro", "-q"]]
    python = [sys.executable, "-m"]
    around = [[*python, "epsilon_dpo.check.params_file"], *repro, [*python, "epsilon_dpo.report.page.tracked"]]
    variants: dict[str, tuple[Path, Sequence[Command]]] = {
        "bare": (bare_project(project, scratch / "bare"), repro),
        "short_deps": (bare_project(project, scratch / "short", keep_code=False), repro),
        "dvc_repro": (project, repro),
        "make_repro": (project, around),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            folder, commands = variants[name]
            spent = [timed(command, folder) for command in commands]
            if number:  # the first is the warm-up
                found[name].append((sum(cpu for cpu, _ in spent), sum(wall for _, wall in spent)))
    print(f"\nNothing to do: {len(stages_of(project))} stages, {rounds} rounds\n")
    print("| | CPU s | ÷ bare [quartiles] | wall s | ÷ bare [quartiles] |\n|---|---|---|---|---|")
    for name in names:
        cpu, wall = (against(found[name], found["bare"], column) for column in (0, 1))
        print(f"| {name} | {cpu} | {wall} |")


def bare_project(project: Path, folder: Path, keep_code: bool = True) -> Path:
    """A DVC repository with the graph of `project` and no work in it; committed, so that nothing is to be done."""
    folder.mkdir()
    graph = [path for path in project.rglob("dvc.yaml") if not {".venv", ".venv-vllm", "scratch"} & set(path.parts)]
    for path in graph:
        place = folder / path.relative_to(project)
        place.parent.mkdir(exist_ok=True)
        content = read(path)
        for stage in content["stages"].values():
            one = stage.get("do", stage)
            one["cmd"] = "true"
            if not keep_code:
                one["deps"] = [dep for dep in one.get("deps", []) if "src/" not in dep]
        if not keep_code:
            content.pop("plots", None)
        write(content, place)
        for name in ("params.yaml", "pins.yaml"):
            if (path.parent / name).is_file():
                shutil.copy(path.parent / name, place.parent)
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(project / name, folder)
    for name in ("src", "stages", "out", "data", "certificates", "study"):
        shutil.copytree(project / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(["git", "init", "-q"], folder)
    run(["dvc", "init", "-q"], folder)
    shutil.copy(project / ".dvc" / "config", folder / ".dvc" / "config")
    run(["dvc", "commit", "-q", "-f", *stages_of(project)], folder)
    if "Running stage" in run(["dvc", "repro", "--dry"], folder, capture=True):
        raise SystemExit(f"the bare copy of {project} would run a stage, so it measures something else")
    return folder


def many_runs(project: Path, scratch: Path, counts: Sequence[int], ways: Sequence[str]) -> None:
    print("\n| runs | stages | | lines of dvc.lock, of a run's | CPU s | CPU s a stage |\n|---|---|---|---|---|---|")
    for count in counts:
        for way in ways:
            folder = project_of_runs(project, scratch / f"{way}{count}", count)
            stages = len(stages_of(folder))
            cpu, _ = timed(HOW[way], folder)
            written = folder.glob("scratch/groups/*/.dvc/tmp/of_runs/*.lock" if way == "groups" else "dvc.lock")
            lines = max(path.read_text("utf-8").count("\n") for path in written)
            print(f"| {count} | {stages} | {way} | {lines:,} | {cpu:.0f} | {cpu / stages:.2f} |", flush=True)


def project_of_runs(project: Path, folder: Path, count: int) -> Path:
    """A commit of `project`'s files with `count` runs, in which each command only makes its outputs."""
    run(["git", "clone", "--quiet", str(project), str(folder)], project)
    content, params = read(folder / "dvc.yaml"), read(folder / "params.yaml")
    given = list(params["runs"].items())
    given_to = ((at, *given[at % len(given)]) for at in range(count))
    params["runs"] = {f"{name}_{at}": value | {"seed": at} for at, name, value in given_to}
    content = {"stages": content["stages"]}
    for stage in content["stages"].values():
        one = stage.get("do", stage)
        outs = [out if isinstance(out, str) else next(iter(out)) for out in one["outs"]]
        inside = [f"{method['method']}/file" for _, method in given] if outs == ["out/scorer"] else ["file"]
        files = [out if Path(out).suffix else f"{out}/{file}" for out in outs for file in inside]
        one["cmd"] = " && ".join(f"mkdir -p {Path(file).parent} && echo {file} >{file}" for file in files)
    for name, value in (("dvc.yaml", content), ("params.yaml", params)):
        write(value, folder / name)
    who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    run(["git", *who, "commit", "--quiet", "--all", "--message", "runs"], folder)
    return folder


def start(project: Path, scratch: Path, rounds: int) -> None:
    copy = scratch / "project"
    ignored = shutil.ignore_patterns(".venv", ".venv-vllm", "mlruns", "scratch", "cache", "__pycache__", "tests")
    shutil.copytree(project, copy, ignore=ignored, symlinks=True)
    first: dict[str, list[str]] = {}  # of the stages of a foreach, one
    for stage in stages_of(project):
        name, _, key = stage.partition("@")
        first.setdefault(name, [name, key] if key else [name])
    begin(copy, first["check"])  # makes the store of MLflow
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in first}
    imports: list[tuple[float, float]] = []
    for _ in range(rounds):
        for name, stage in first.items():
            imports.append(timed(BARE, copy))  # beside each of them
            found[name].append((*begin(copy, stage), imports[-1][1]))
    bare = np.median([wall for _, wall in imports])
    print(f"\nThe start of a stage, {rounds} round(s); `import torch, transformers` takes {bare:.2f} s\n")
    print("| stage | s until it has its params | ÷ bare import | entire, s | entire, CPU s |\n|---|---|---|---|---|")
    for name, times in found.items():
        ready, cpu, wall, _ = np.median(times, axis=0)
        share = np.median([one / beside for one, _, _, beside in times])
        print(f"| {name} | {ready:.2f} | {share:.2f} | {wall:.2f} | {cpu:.2f} |")
    shares = [one / beside for times in found.values() for one, _, _, beside in times]
    low, median, high = np.percentile(shares, [25, 50, 75])
    print(f"\nover all stages, ÷ bare import: {median:.2f} [{low:.2f}, {high:.2f}]")


def begin(copy: Path, stage: list[str]) -> tuple[float, float, float]:
    """Seconds until the stage has its params, and CPU and wall seconds of the entire process."""
    command = [sys.executable, "-c", START, *stage]
    before, wall = children(), time.time()
    said = run(command, copy, capture=True, STARTED=str(wall))
    cpu, wall = children() - before, time.time() - wall
    return float(said.strip().splitlines()[0]), cpu, wall


def timed(command: Command, folder: Path) -> tuple[float, float]:
    """CPU and wall seconds."""
    before, wall = children(), time.perf_counter()
    run(command, folder)
    return children() - before, time.perf_counter() - wall


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command: Command, folder: Path, capture: bool = False, **extra: str) -> str:
    """What the command printed, if `capture`."""
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder / "src")}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | here | extra,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:80]} in {folder} failed:\n{done.stdout}")
    return done.stdout if capture else ""


def stages_of(project: Path) -> list[str]:
    return run(["dvc", "stage", "list", "--name-only"], project, capture=True).split()


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def write(content: Any, path: Path) -> None:
    """In its order: jobs run a run's stages as dvc.yaml has them."""
    yaml = YAML(typ="safe")
    yaml.sort_base_mapping_type_on_output = False
    with path.open("w") as file:
        yaml.dump(content, file)


def against(found: list[tuple[float, float]], bare: list[tuple[float, float]], column: int) -> str:
    """Median, and median and quartiles of the ratio to `bare` in the same round, as two cells."""
    mine, its = (np.array(times)[:, column] for times in (found, bare))
    low, median, high = np.percentile(mine / its, [25, 50, 75])
    return f"{np.median(mine):.2f} | {median:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
