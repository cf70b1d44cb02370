"""One of the processes of a launcher: `python -m epsilon_dpo.pipeline.launch.worker FOLDER`, see processes.py."""

import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.disk import disk_in_a_sentence
from epsilon_dpo.pipeline.stage.files import Json, read_json, write_json
from epsilon_dpo.pipeline.stage.lifetime import end_with

Track = Callable[[dict[str, float], int], None]
Part = Callable[[Json, Track], Any]
REQUEST, TRACKED, REFUSED = "request.json", "tracked.jsonl", "refused.txt"
PATIENCE_S = 60.0  # for the stage to read a refusal and end everybody


def main(folder: Path) -> None:
    """Do the part of FOLDER/request.json and leave what it returns as FOLDER/result-RANK.json."""
    from accelerate import PartialState  # here, because a stage imports this file for its names

    request = read_json(folder / REQUEST)
    # On another machine with what started it, which ends with the others.
    end_with(request["stage"] if request["host"] == socket.gethostname() else os.getppid())
    # Of several GPUs it chooses this process's. Torch would end one that waits ten minutes for another, which may hash
    # or write a large checkpoint; those that are gone are noticed by the launcher.
    place = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    rank = place.process_index

    def track(metrics: dict[str, float], step: int) -> None:
        if rank == 0:
            with (folder / TRACKED).open("a", encoding="utf-8") as file:
                file.write(json.dumps([metrics, step]) + "\n")

    module, name = request["part"].split(":")
    try:
        with disk_in_a_sentence():
            part: Part = getattr(importlib.import_module(module), name)
            write_json(folder / f"result-{rank}.json", part(request["arguments"], track))
    except UserError as error:
        _refuse(folder, rank, str(error))
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def _refuse(folder: Path, rank: int, sentence: str) -> None:
    """Whoever refuses first is heard; the stage then ends all ranks, which may wait for one another."""
    own = folder / f"{REFUSED}.{rank}"
    try:
        own.write_text(sentence, "utf-8")
        if not (folder / REFUSED).exists():
            os.replace(own, folder / REFUSED)
    except OSError:  # the full disk that it speaks of is that of this folder, too
        sys.exit(sentence)
    time.sleep(PATIENCE_S)
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
