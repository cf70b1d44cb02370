"""A training that is killed ends in the same bytes as one that is not: weights, state and metric stream."""

import errno
import functools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from runs import DPO, EPSILON_DPO, LORA, RUNS, SOFT, TDPO, content, sealed

from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.pipeline.stage.runs import FACTS, policy_paths
from epsilon_dpo.training.alignment import method_trainer
from epsilon_dpo.training.alignment import trainer as trainer_module
from epsilon_dpo.training.alignment.snapshots import publish_snapshots
from epsilon_dpo.training.loop.checkpoints import SHARED_OUT, last_sealed_checkpoint
from epsilon_dpo.training.loop.params import LoRA


@pytest.fixture
def run(run):
    """With a checkpoint every 4 of the 12 steps, unless a test says otherwise."""
    return functools.partial(run, save_steps=4)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_micro_batch(number):
    """The `number`-th of this process."""
    calls, compute_loss = iter(range(1, 100)), trainer_module.PreferenceTrainer.compute_loss
    trainer_module.PreferenceTrainer.compute_loss = lambda *args, **kwargs: (
        die() if next(calls) == number else compute_loss(*args, **kwargs)
    )


def die_while_saving(step):
    write_json = method_trainer.write_json
    method_trainer.write_json = lambda path, value: (
        die() if f"checkpoint-{step}" in str(path) else write_json(path, value)
    )


# In this order, and the checkpoints that are there after each. Steps 1 to 5 have two micro-batches each and step 6 one.
KILLS = {
    "inside the window of step 5": [4],
    "while saving step 8": [4, 8],
    "after step 11": [4, 8],
}


def killed(run, kill, entry):
    """In a child process: train as `run` does and be killed."""
    track = lambda metrics, step: None  # noqa: E731
    if kill == "inside the window of step 5":
        die_at_micro_batch(10)
    elif kill == "while saving step 8":
        die_while_saving(8)
    else:
        last = int(kill.split()[-1])
        track = lambda metrics, step: die() if step == last else None  # noqa: E731
    run("resumed", entry, track=track)


STATES = {name: entry for name, entry in RUNS.items() if method_of(name, entry).state_dict()}


def resumed_by_itself(name):
    """What a method keeps of its own is resumed by its own code; of the others, DPO stands for all."""
    if name in ("dpo", "epsilon_dpo"):
        return name
    return pytest.param(name, marks=pytest.mark.slow if name in STATES else pytest.mark.campaign)


@pytest.mark.parametrize("name", [resumed_by_itself(name) for name in RUNS])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(run, tmp_path, name):
    uninterrupted = run("uninterrupted", RUNS[name])
    if name in STATES:
        assert_the_state_moves(name, uninterrupted, tmp_path / "uninterrupted-scratch" / "checkpoint-8")
    scratch = tmp_path / "resumed-scratch"
    for kill, left in KILLS.items():
        child = multiprocessing.get_context("fork").Process(target=killed, args=(run, kill, RUNS[name]))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, kill
        assert sorted(int(path.name.split("-")[1]) for path in scratch.glob("checkpoint-*")) == left, kill
    steps = []
    resumed = run("resumed", RUNS[name], track=lambda metrics, step: steps.append(step))
    assert steps == [*range(1, 13), 12]  # the rows before the kill are tracked again, then the evaluation
    assert content(resumed) == content(uninterrupted)


def assert_the_state_moves(name, folder, checkpoint):
    """Or the test above would say nothing of it. metrics.json has the numbers of the state, but no list."""
    start, end = method_of(name, STATES[name]).state_dict(), read_json(folder / "metrics.json")
    saved = read_json(checkpoint / method_trainer.METHOD_STATE)
    lists = {key for key, value in start.items() if isinstance(value, list)}
    assert all(saved[key] != value for key, value in start.items())
    assert all(end[key] != start[key] for key in start.keys() - lists) and not end.keys() & lists


def test_how_often_is_saved_changes_no_byte_and_may_change_in_between(run, tmp_path):
    uninterrupted = run("uninterrupted", EPSILON_DPO, save_steps=1000)
    assert not list((tmp_path / "uninterrupted-scratch").glob("checkpoint-*"))
    every_third = functools.partial(run, save_steps=3)
    child = multiprocessing.get_context("fork").Process(target=killed, args=(every_third, "step 8", EPSILON_DPO))
    child.start()
    child.join(120)
    checkpoints = tmp_path / "resumed-scratch"
    assert child.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in checkpoints.glob("c*")) == ["checkpoint-3", "checkpoint-6"]
    for name, ahead in (("checkpoint-3", 2e5), ("checkpoint-6", 1e5)):  # the clock was set back, or they are a copy
        os.utime(checkpoints / name, (time.time() + ahead,) * 2)
    resumed = run("resumed", EPSILON_DPO, save_steps=1)
    assert sorted(path.name for path in checkpoints.glob("c*")) == ["checkpoint-10", "checkpoint-11"]
    assert content(resumed) == content(uninterrupted)


@pytest.mark.slow
def test_snapshots_are_copied_where_nothing_can_be_linked(tmp_path, monkeypatch):
    """BeeGFS and AFS have no links between folders: the end of a training would be a traceback, each time again."""
    (tmp_path / "scratch/snapshots/000004/model").mkdir(parents=True)
    (tmp_path / "scratch/snapshots/000004/model/config.json").write_text("{}")
    (tmp_path / "out").mkdir()

    def link(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    publish_snapshots(tmp_path / "scratch", tmp_path / "out")
    assert (tmp_path / "out/snapshots/000004/model/config.json").read_text() == "{}"


def test_snapshots_are_published_again_by_a_stage_whose_end_was_killed(tmp_path):
    """Its folder is a new one then, and no step is trained again that would write them."""
    for step in ("000004", "000008"):
        (tmp_path / "scratch/snapshots" / step).mkdir(parents=True)
        (tmp_path / "scratch/snapshots" / step / FACTS).write_text(step)
    for out in (tmp_path / "killed", tmp_path / "again"):
        out.mkdir()
        publish_snapshots(tmp_path / "scratch", out)
        assert policy_paths(out) == ["snapshots/000004", "snapshots/000008", "."]
        assert [(out / place / FACTS).read_text() for place in policy_paths(out)[:2]] == ["000004", "000008"]


def test_a_mark_on_a_step_is_kept_at_that_step(run):
    """Every 0.2 of an epoch of 10 steps; in floating point 0.6 / 0.2 is 2.9999999999999996."""
    kept = run("kept", DPO | {"snapshot_epochs": 0.2}, count=20, batch_size=2, num_train_epochs=1.0)
    assert policy_paths(kept) == [*(f"snapshots/{step:06d}" for step in (2, 4, 6, 8)), "."]


def test_snapshots_survive_kills_too(run, tmp_path):
    """2 epochs of 6 steps: every 0.4 of an epoch, at the first step that reaches the mark; not the final policy."""
    entry = EPSILON_DPO | {"snapshot_epochs": 0.4}
    uninterrupted = run("uninterrupted", entry)
    *kept, final = policy_paths(uninterrupted)
    facts = [read_json(uninterrupted / place / FACTS) for place in kept]
    assert [(fact["step"], round(fact["epoch"], 3)) for fact in facts] == [
        (3, 0.5),
        (5, 0.833),
        (8, 1.333),
        (10, 1.667),
    ]
    assert final == "." and (uninterrupted / final / "model").is_dir()
    for kill in KILLS:
        child = multiprocessing.get_context("fork").Process(target=killed, args=(run, kill, entry))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, kill
    assert content(run("resumed", entry)) == content(uninterrupted)
    snapshot, ended = content(uninterrupted / kept[-1] / "model"), run("ended", EPSILON_DPO)
    assert snapshot.keys() == content(ended / "model").keys()
    assert snapshot["model.safetensors"] != content(ended / "model")["model.safetensors"]
    assert policy_paths(ended) == ["."]


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry", [EPSILON_DPO | {"snapshot_epochs": 0.4}, SOFT, TDPO], ids=lambda entry: entry["method"]
)
def test_an_adapter_survives_kills_too(run, tmp_path, entry):
    """And its snapshots, the second adapter of a moving reference, a KL in whose gradient the reference's base is."""
    with_lora = functools.partial(run, lora=LoRA(**LORA), learning_rate=1e-2)
    uninterrupted = content(with_lora("uninterrupted", entry))
    for kill in KILLS:
        child = multiprocessing.get_context("fork").Process(target=killed, args=(with_lora, kill, entry))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, kill
    assert (tmp_path / "resumed-scratch" / "checkpoint-8" / "adapter_model.safetensors").is_file()
    resumed = with_lora("resumed", entry)
    assert content(resumed) == uninterrupted
    assert not [name for name in uninterrupted if name.endswith("/model.safetensors")]
    assert len(policy_paths(resumed)) == (5 if entry["method"] == "epsilon_dpo" else 1)


def test_only_sealed_checkpoints_count(tmp_path, capfd):
    older, cut, flipped, listed = (sealed(tmp_path, step, {"a": "1", "b": "2"}) for step in (4, 8, 12, 16))
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-20" / "a").write_text("1")
    (cut / "a").write_text("")
    (flipped / "b").write_text("3")  # of the same size
    (listed / "sealed.json").write_text('{"a"')
    assert last_sealed_checkpoint(tmp_path) == str(older)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    said = sorted(capfd.readouterr().err.splitlines())
    assert [line.removeprefix(f"{tmp_path}/checkpoint-") for line in said] == [
        "12 is damaged (b); it is removed and not resumed from.",
        "16 is damaged (sealed.json); it is removed and not resumed from.",
        "20 was not finished; it is removed and not resumed from.",
        "8 is damaged (a); it is removed and not resumed from.",
    ]
    assert last_sealed_checkpoint(tmp_path / "none") is None


def test_the_newest_checkpoint_is_that_of_the_latest_step(tmp_path):
    """And not the last by name, which 8 is."""
    for step in (12, 8):
        sealed(tmp_path, step, {"a": "1"})
    assert last_sealed_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")


@pytest.mark.parametrize(
    ("is_sharded", "was"),
    [(True, r"sharded, .* \(launchers/fsdp\.yaml\)"), (False, r"not sharded, .* \(one without FSDP\)")],
)
def test_a_checkpoint_of_the_other_kind_of_launcher_is_refused_and_kept(tmp_path, monkeypatch, is_sharded, was):
    checkpoint = sealed(tmp_path, 4, {"a": "1"})
    if is_sharded:
        (checkpoint / SHARED_OUT).mkdir()
    monkeypatch.setattr("epsilon_dpo.training.loop.checkpoints.asked_for", lambda: is_sharded)
    assert last_sealed_checkpoint(tmp_path) == str(checkpoint)
    monkeypatch.setattr("epsilon_dpo.training.loop.checkpoints.asked_for", lambda: not is_sharded)
    with pytest.raises(UserError, match=rf"checkpoint-4 holds weights that are {was}, or remove .* from the start"):
        last_sealed_checkpoint(tmp_path)
    assert (checkpoint / "a").is_file()


def test_a_checkpoint_is_on_the_disk_before_it_is_sealed(tmp_path, monkeypatch):
    done, sync = [], os.fsync

    def note(file):
        sync(file)
        done.append((Path(os.readlink(f"/proc/self/fd/{file}")).name, (checkpoint / "sealed.json").exists()))

    checkpoint = tmp_path / "checkpoint-4"
    monkeypatch.setattr(os, "fsync", note)
    sealed(tmp_path, 4, {"a": "1"})
    before = {name for name, is_sealed in done if not is_sealed}
    assert before == {"a", "checkpoint-4", tmp_path.name, "sealed.json.partial"} and done[-1] == ("checkpoint-4", True)


def test_folders_that_cannot_be_synced_are_no_reason_to_stop(tmp_path, monkeypatch):
    """Older SMB, gocryptfs: a training would end at its first checkpoint. What a disk fails to write still is one."""
    sync, numbers = os.fsync, {True: errno.EINVAL, False: None}

    def refuses(file):
        if number := numbers[Path(os.readlink(f"/proc/self/fd/{file}")).is_dir()]:
            raise OSError(number, os.strerror(number))
        sync(file)

    monkeypatch.setattr(os, "fsync", refuses)
    for step, number in ((4, errno.EINVAL), (8, errno.EOPNOTSUPP)):
        numbers[True] = number
        checkpoint = sealed(tmp_path, step, {"a": "1"})
        assert last_sealed_checkpoint(tmp_path) == str(checkpoint)
    for step, folders, files in ((12, errno.EIO, None), (16, None, errno.EIO), (20, None, errno.EINVAL)):
        numbers = {True: folders, False: files}
        with pytest.raises(OSError, match=os.strerror(folders or files)):
            sealed(tmp_path, step, {"a": "1"})
    assert last_sealed_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
