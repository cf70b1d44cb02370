"""Kills, full disks, damaged files, two at once and clocks that jump: afterwards `dvc repro` completes, and dvc.lock is
the undisturbed one to the byte. On all stages of the repository, with presets/on-policy.yaml cut down to two minutes.

What was done is printed with counts: `make campaign` shows it. EPSILON_DPO_KILLS: how many kills (100).
"""

import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import (
    SENTENCE,
    Repro,
    clock,
    copy_of,
    ends_well,
    fill_up,
    flipped,
    forget,
    lock,
    recorded,
    rewind,
    small_disk,
    start_anew,
    tiny_project,
    torn_by_dvc,
)
from whole_pipeline import ROOT, TRACKED, all_stages, dvc, repro

pytestmark = [pytest.mark.slow, pytest.mark.campaign]

KILLS = int(os.environ.get("EPSILON_DPO_KILLS", "100"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WHO = ("dvc", "stage", "group")
WIPES = (  # so that DVC takes everything from its run cache, or computes it into a full or an empty cache
    ("out", "scratch", "dvc.lock"),
    ("out", "scratch", "dvc.lock", ".dvc/cache/runs"),
    ("out", "dvc.lock", ".dvc/cache"),
)
PARTS = (lambda stages: stages[: stages.index("align")], lambda stages: stages[stages.index("align") :])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undisturbed: its dvc.lock is the truth."""
    project = tiny_project(tmp_path_factory.mktemp("campaign") / "undisturbed")
    assert set(repro(project)) == all_stages(project)
    return project


@pytest.mark.parametrize("part", [0, 1], ids=["to the reference", "from the runs on"])
def test_kills(project: Path, tmp_path: Path, part: int) -> None:
    """Half of them each, one after the other; what the run cache knows of the other part is taken from there."""
    copy, truth = copy_of(project, tmp_path / "copy"), lock(project)
    forget(copy, PARTS[part](list(dict.fromkeys(name.partition("@")[0] for name in recorded(copy)))))
    start_anew(copy, *WIPES[0])
    chance = random.Random(part)
    kinds = itertools.cycle((who, number) for number in SIGNALS for who in WHO)
    wipes = itertools.cycle(WIPES)
    hits: Counter[tuple[str, str]] = Counter()  # by stage and signal
    of_whom: Counter[tuple[str, str]] = Counter()
    also: Counter[str] = Counter()
    running, refused = Repro(copy), 0
    while hits.total() < KILLS / 2:
        if running.goes_on(chance.choice((0, 1, 1, 2)), chance.uniform(0.0, 4.0)):
            refused = 0
            who, number = next(kinds)
            stage = (running.stages() or ["before any"])[-1].partition("@")[0]
            who = running.kill(who, number)
            hits[stage, number.name] += 1
            of_whom[who, number.name] += 1
            print(f"kill {hits.total():3d}: {number.name} to {who}, {stage}", flush=True)
            if not running.ends(3.0 if (who, number) == ("dvc", signal.SIGINT) else 30.0):
                also[f"{number.name} to {who} that dvc outlived"] += 1
                continue
            also["a killed repro that printed a traceback"] += "Traceback" in running.said()
        elif running.process.returncode == 0:
            assert lock(copy) == truth
            also["completed between two kills, and what it had made removed"] += 1
            start_anew(copy, *next(wipes))
        else:
            said = running.said()
            assert "Traceback" not in said, said[-3000:]
            refused += 1
            if torn := torn_by_dvc(said):
                start_anew(copy, torn)
                also[f"{torn} that a kill of dvc had torn, removed"] += 1
                running = Repro(copy)
                continue
            assert refused < 5, f"it does not get on: {said[-3000:]}"
            also[(SENTENCE.findall(said) or said.strip().splitlines())[-1]] += 1
        running = Repro(copy)
    running.process.wait()
    while torn := torn_by_dvc(dvc(copy, "repro").stderr):
        start_anew(copy, torn)
    ends_well(copy, truth)
    print(*counts(hits, of_whom, also), f"MLflow's rows: {statuses(copy)}", sep="\n")
    assert "RUNNING" not in statuses(copy)


def counts(hits: Counter[tuple[str, str]], of_whom: Counter[tuple[str, str]], also: Counter[str]) -> Iterator[str]:
    """The table of kills, a line each."""
    names = [number.name for number in SIGNALS]
    for table in (hits, of_whom):
        yield f"{'':<14}" + "".join(f"{name:>9}" for name in names) + f"{'all':>9}"
        for row in dict.fromkeys(row for row, _ in table):
            found = [table[row, name] for name in names]
            yield f"{row:<14}" + "".join(f"{count:9d}" for count in [*found, sum(found)])
        found = [sum(table[row, name] for row in {row for row, _ in table}) for name in names]
        yield f"{'all':<14}" + "".join(f"{count:9d}" for count in [*found, sum(found)])
    yield from (f"{count:4d} × {what}" for what, count in also.items() if count)


def statuses(project: Path) -> dict[str, int]:
    with sqlite3.connect(f"file:{project / 'mlruns/mlflow.db'}?mode=ro", uri=True) as store:
        return dict(store.execute("select status, count(*) from runs group by status").fetchall())


def test_out_and_scratch_on_a_full_disk(project: Path, tmp_path: Path) -> None:
    """The project's disk, so that dvc.lock is on it, too; DVC's cache and MLflow's store are on another."""
    disk = tmp_path / "disk"
    with small_disk(disk, 500):
        copy = copy_of(project, disk / "copy")
        rewind(copy, "sft")
        for name in (".dvc/cache", "mlruns"):
            shutil.move(copy / name, tmp_path / Path(name).name)
        (copy / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'cache'}\n", "utf-8")
        (copy / "mlruns").symlink_to(tmp_path / "mlruns")
        said = fill_up(copy, disk, (0.1, 0.8, 2.0, 4.0, 100.0))
        assert said and all("takes no more" in sentence or "No space left" in sentence for sentence in said)
        ends_well(copy, lock(project))


def test_dvcs_cache_on_a_full_disk(project: Path, tmp_path: Path) -> None:
    copy = copy_of(project, tmp_path / "copy")
    rewind(copy, "sft")
    cache = copy / ".dvc/cache"
    shutil.move(cache, tmp_path / "cache")
    with small_disk(cache, 500):
        shutil.copytree(tmp_path / "cache", cache, dirs_exist_ok=True)
        said = fill_up(copy, cache, (0.05, 0.5, 1.5, 100.0))
        assert said and all("No space left" in sentence for sentence in said)
        ends_well(copy, lock(project))


def test_mlflows_store_on_a_full_disk(project: Path, tmp_path: Path) -> None:
    """Nothing fails."""
    copy = copy_of(project, tmp_path / "copy")
    rewind(copy, "figures")
    start_anew(copy, "mlruns")
    with small_disk(copy / "mlruns", 0.1):
        (copy / TRACKED).touch()
        done = dvc(copy, "repro")
        assert done.returncode == 0 and lock(copy) == lock(project)
        assert "Traceback" not in done.stdout + done.stderr and "tracking:" in done.stderr
    ends_well(copy, lock(project))


def test_a_damaged_file_in_dvcs_cache(project: Path, tmp_path: Path) -> None:
    """As docs/howto.md says: DVC believes it until its time is another, which a failing disk does not change."""
    copy, truth = copy_of(project, tmp_path / "copy"), lock(project)
    weights = copy / "out/sft/model/model.safetensors"
    good = weights.read_bytes()
    name = hashlib.md5(good).hexdigest()
    cached = copy / ".dvc/cache/files/md5" / name[:2] / name[2:]
    before = cached.stat()
    cached.chmod(0o644)
    cached.write_bytes(flipped(good))
    cached.chmod(0o444)
    os.utime(cached, ns=(before.st_atime_ns, before.st_mtime_ns))
    shutil.rmtree(copy / "out/sft")
    assert dvc(copy, "repro").returncode == 0
    assert weights.read_bytes() == flipped(good) and lock(copy) == truth
    [remedy] = re.findall(r"`(find \.dvc/cache/files .*?)`", (ROOT / "docs/howto.md").read_text("utf-8"))
    subprocess.run(remedy, shell=True, cwd=copy, check=True)
    ends_well(copy, truth)
    assert weights.read_bytes() == good


@pytest.mark.parametrize("stage", ["judge", "sft", "align@madpo", "align@rloo"])
def test_truncated_and_damaged_checkpoints(project: Path, tmp_path: Path, stage: str) -> None:
    """Each file of the last one in turn; the training goes on from the one before it, or begins anew."""
    copy, truth = copy_of(project, tmp_path / "copy"), lock(project)
    rewind(copy, stage)
    running = Repro(copy, "-s", stage)
    while not (found := list((copy / "scratch").glob(f"{stage}-*/**/checkpoint-[4-9]/sealed.json"))):
        assert running.process.poll() is None, running.said()
        time.sleep(0.01)
    running.kill("group", signal.SIGKILL)
    running.process.wait()
    checkpoint = found[-1].parent
    shutil.copytree(copy / "scratch", tmp_path / "kept")
    files = [file for file in sorted(checkpoint.rglob("*")) if file.is_file()]
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if number % 2 else flipped(content))
        done = dvc(copy, "repro", "-s", stage)
        assert done.returncode == 0 and "it is removed and not resumed from" in done.stderr, (file, done.stderr[-2000:])
        assert lock(copy) == truth[: len(lock(copy))], file
        rewind(copy, stage)
        shutil.rmtree(copy / "scratch")
        shutil.copytree(tmp_path / "kept", copy / "scratch")
    ends_well(copy, truth)
    print(f"{stage}: {len(files)} files damaged in turn:", *(file.name for file in files))


@pytest.mark.parametrize("begun", [1, 2, 3])
def test_two_at_once(project: Path, tmp_path: Path, begun: int) -> None:
    """The second while the first is at this stage of those to do: one says who is busy, the other completes."""
    copy = copy_of(project, tmp_path / "copy")
    rewind(copy, "tournament")
    first = Repro(copy)
    assert first.goes_on(begun, 0.2)
    second = dvc(copy, "repro")
    first.process.wait()
    assert sorted((first.process.returncode != 0, second.returncode != 0)) == [False, True]
    refused = second.stderr if second.returncode else first.said()
    assert "Traceback" not in refused and re.search(r"\(PID \d+\): ", refused), refused
    assert second.returncode == 0 or f"(PID {first.process.pid})" in refused
    ends_well(copy, lock(project))
    print(refused.strip().splitlines()[:3])


def test_clock_jumps(project: Path, tmp_path: Path) -> None:
    """A kill after each; by faketime where it is installed (Debian's package of that name), and in the files' times."""
    copy, truth = copy_of(project, tmp_path / "copy"), lock(project)
    rewind(copy, "sft")
    chance = random.Random(0)
    for days in (400, -400, 1, -1, 9000, -9000, 0):
        running = Repro(copy, **clock(days))
        if running.goes_on(2, 2.0):
            running.kill("group", signal.SIGKILL)
        running.process.wait()
        assert "Traceback" not in running.said(), running.said()[-3000:]
        for path in [
            path for name in ("out", "scratch", ".dvc") for path in (copy / name).rglob("*") if path.is_file()
        ]:
            moved = time.time() + chance.choice((-1, 1)) * chance.uniform(0, 4e7)
            os.utime(path, (moved, moved))
    undisturbed = dvc(copy, "repro", **clock(-30))
    assert undisturbed.returncode == 0 and lock(copy) == truth, undisturbed.stderr[-3000:]
    ends_well(copy, truth)
    print("8 clocks, 7 kills; by faketime:", bool(clock(0)))
