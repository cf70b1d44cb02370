"""An online training that is killed ends in the same bytes as one that is not, wherever it is killed."""

import multiprocessing
import os
import signal

import pytest
from online_runs import PPO, RLOO, worth
from runs import LORA, content
from safetensors.torch import load_file

from epsilon_dpo.pipeline.stage.files import read_json
from epsilon_dpo.training.alignment import method_trainer
from epsilon_dpo.training.loop.params import LoRA
from epsilon_dpo.training.online import online_trainer

# A checkpoint after every second of 8 generations; in optimizer steps where a generation takes several.
ENTRIES = {
    "rloo": RLOO | {"steps": 8},
    "rloo_again": RLOO | {"steps": 8, "iterations": 2},
    "ppo": PPO | {"snapshot_epochs": 1.5},
}
UPDATES = {"rloo": 1, "rloo_again": 2, "ppo": 4}


def every_second(name):
    """Generation, in optimizer steps; where one takes several, a number that must wait for the generation's end."""
    return 2 * UPDATES[name] - (UPDATES[name] > 2)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(number, of):
    calls = iter(range(1, 1000))
    return lambda *args, **kwargs: die() if next(calls) == number else of(*args, **kwargs)


# Of this process: the scoring of its n-th generation, its n-th micro-batch, the writing of a checkpoint.
KILLS = {
    "while drawing the first generation": ("score", 1, []),
    "while drawing generation 4": ("score", 4, [2]),
    "among the micro-batches of generation 5": ("micro-batch", None, [2, 4]),
    "while saving generation 6": ("saving", 6, [4, 6]),
}


def killed(online, name, kind, number, changes):
    """In a child process: train as `online` does and be killed."""
    score = worth
    if kind == "score":
        score = die_at(number, worth)
    elif kind == "micro-batch":
        trainer = online_trainer.OnlineTrainer
        # 3 micro-batches of 4 answers a pass of RLOO's 12, one in each of two minibatches of PPO's 8
        per_update = {"rloo": 3, "rloo_again": 3, "ppo": 1}[name]
        done = 2 * UPDATES[name] * per_update  # generations 3 and 4, which this process starts with
        trainer._loss_of = die_at(done + 1 + per_update * (UPDATES[name] - 1), trainer._loss_of)
    else:
        write = method_trainer.write_json
        where = f"checkpoint-{number * UPDATES[name]}"
        method_trainer.write_json = lambda path, value: die() if where in str(path) else write(path, value)
    online("resumed", ENTRIES[name], score=score, save_steps=every_second(name), **changes)


# Several updates of a generation are PPO's, too.
@pytest.mark.parametrize(
    "name",
    ["ppo", pytest.param("rloo", marks=pytest.mark.slow), pytest.param("rloo_again", marks=pytest.mark.campaign)],
)
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(online, tmp_path, name):
    survives(online, tmp_path, name, {})


def survives(online, tmp_path, name, changes):
    uninterrupted = content(online("uninterrupted", ENTRIES[name], save_steps=1000, **changes))
    scratch = tmp_path / "resumed-scratch"
    for kill, (kind, number, left) in KILLS.items():
        child = multiprocessing.get_context("fork").Process(target=killed, args=(online, name, kind, number, changes))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, kill
        found = sorted(int(path.name.split("-")[1]) for path in scratch.glob("checkpoint-*"))
        assert found == [generation * UPDATES[name] for generation in left], kill
    steps = []
    resumed = online("resumed", ENTRIES[name], track=lambda _, step: steps.append(step), save_steps=4, **changes)
    assert steps == [*range(UPDATES[name], 8 * UPDATES[name] + 1, UPDATES[name]), 8 * UPDATES[name]]
    assert content(resumed) == uninterrupted


@pytest.mark.slow
def test_an_adapter_and_its_value_head_survive_kills_too(online, tmp_path):
    survives(online, tmp_path, "ppo", {"lora": LoRA(**LORA)})
    checkpoint = tmp_path / "resumed-scratch" / f"checkpoint-{6 * UPDATES['ppo']}"
    assert (checkpoint / "adapter_model.safetensors").is_file() and (checkpoint / online_trainer.VALUE_HEAD).is_file()


def test_the_state_does_move(online, tmp_path):
    """Or the test above would say nothing of it."""
    folder = online("moved", ENTRIES["ppo"], save_steps=every_second("ppo"))
    saved = read_json(tmp_path / "moved-scratch" / "checkpoint-24" / method_trainer.METHOD_STATE)
    assert len({PPO["beta"], saved["beta"], read_json(folder / "metrics.json")["beta"]}) == 3
    values = load_file(tmp_path / "moved-scratch" / "checkpoint-24" / online_trainer.VALUE_HEAD)
    assert values["linear.weight"].abs().max() > 1e-4, "the value head starts at 0 and is trained"
