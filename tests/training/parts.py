"""What tests let the processes of a launcher do; see pipeline/launch/processes.py."""

import os
import signal
import time
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from epsilon_dpo.data.tokens.params import Tokens
from epsilon_dpo.methods.registry import method_of
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.training.alignment.alignment import align
from epsilon_dpo.training.alignment.params import Align
from epsilon_dpo.training.loop.checkpoints import last_sealed_checkpoint
from epsilon_dpo.training.sft.params import SFT
from epsilon_dpo.training.sft.sft import fine_tune


def trainings(arguments, track):
    """Each of `align` by name, [entry of a run, block align], and each of `sft`, [block sft], one after the other.

    `models` has the folders of policies other than `sft`, by name.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    root = Path(arguments["root"])

    def place(name):
        out = root / "processes" / name  # of all ranks, as the stage's is
        out.mkdir(parents=True, exist_ok=True)
        return out, root / "processes" / f"{name}-scratch", track

    for name, (entry, settings) in arguments["align"].items():
        data = (root / arguments["models"].get(name, "sft"), root / "pairs", *place(name), root / "margins")
        align(method_of(name, entry), Align(**settings), 5, *data, save_steps=4)
    for name, settings in arguments["sft"].items():
        fine_tuned(settings, root, *place(name))


def fine_tuned(settings, root, *place):
    tokens = Tokens(max_prompt_length=10, max_length=16)
    fine_tune(SFT(**settings), tokens, 5, root / "base", root / "validated", *place, save_steps=4)


def one_dies(arguments, track):
    """A training of which a rank, or the launcher, is killed at a step; how many steps it computed, where none is."""
    root, victim = Path(arguments["root"]), arguments["victim"]
    rank = os.environ.get("RANK", "0")
    out = root / "out"
    out.mkdir(parents=True, exist_ok=True)
    (root / f"pid-{rank}").write_text(str(os.getpid()), "utf-8")

    def tracked(metrics, step):
        track(metrics, step)
        if victim != "nobody" and step == 7:
            _kill(root, victim)

    torch.set_num_threads(1)
    data = (root / "sft", root / "pairs", out, root / "scratch", tracked)
    computed = []
    counting = register_optimizer_step_post_hook(lambda *_: computed.append(1))
    try:
        align(method_of("x", arguments["entry"]), Align(**arguments["settings"]), 5, *data, save_steps=3)
    finally:
        counting.remove()  # without a launcher this is the tests' own process
    return len(computed)


def _kill(root, victim):
    """From rank 0, which tracks; where it is not the victim it waits for what comes."""
    pid = os.getppid() if victim == "launcher" else int((root / f"pid-{victim}").read_text("utf-8"))
    os.kill(pid, signal.SIGKILL)
    time.sleep(600)


def refuses(arguments, track):
    """Rank 1 finds a fault that the others do not; they wait for it."""
    if os.environ["RANK"] == "1":
        raise UserError("rank 1 cannot read its rows; give it some.")
    torch.distributed.barrier()


def says(arguments, track):
    """Its rank, how many there are, what it was given, and the checkpoint that all look for at once."""
    track({"rank": float(os.environ["RANK"])}, 1)
    torch.distributed.barrier()
    checkpoint = last_sealed_checkpoint(Path(arguments["folder"]))
    return [os.environ["RANK"], os.environ["WORLD_SIZE"], arguments["x"], checkpoint]
