"""The journal of finished batches: a kill or a loss of power at any byte costs the batch that it fell into."""

import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from epsilon_dpo.pipeline.stage import journal as journal_module
from epsilon_dpo.pipeline.stage.journal import FILE, Journal

VALUES: list[Any] = [
    [0.1 + 0.2, 5e-324, -0.0, 1.7976931348623157e308, 1 / 3],
    {"text": "ε\n\u2028 {", "list": [[1.5], []]},
    [math.inf, -math.inf],
    None,
    7,
]


def kept(folder: Path) -> tuple[list[Any], int]:
    """All values, and how many of them were computed."""
    journal, computed = Journal(folder), []

    def of(number: int) -> Callable[[], Any]:
        return lambda: computed.append(number) or VALUES[number]

    found = [journal.of(["batch", number], of(number)) for number in range(len(VALUES))]
    journal.close()
    return found, len(computed)


def test_values_come_back_to_the_last_bit(tmp_path: Path) -> None:
    assert kept(tmp_path / "a") == (VALUES, len(VALUES))
    found, computed = kept(tmp_path / "a")
    assert (found, computed) == (VALUES, 0)
    assert math.copysign(1.0, found[0][2]) == -1.0
    assert kept(tmp_path / "b")[1] == len(VALUES)  # another folder knows nothing


def test_the_first_execution_has_what_a_resumed_one_would(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal:
        assert journal.of("batch", lambda: (1, {"a": (2.5,)})) == [1, {"a": [2.5]}]


def test_what_is_not_the_same_is_computed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert [journal.of(what, lambda: 1) for what in (["a", [1, 2]], ["a", [12]], ["a", [1, 2], 0])] == [1, 1, 1]
    assert journal.of(["a", [2, 1]], lambda: 2) == 2
    assert journal.of(["a", [1, 2]], lambda: 3) == 1


@pytest.mark.parametrize("at", range(0, 200, 7))
def test_a_file_that_ends_anywhere_costs_what_it_lacks(tmp_path: Path, at: int) -> None:
    kept(tmp_path)
    file = tmp_path / FILE
    content = file.read_bytes()
    file.write_bytes(content[:at])
    whole = sum(content[:at].count(line) for line in content.splitlines())
    for missing in (len(VALUES) - whole, 0):
        assert kept(tmp_path) == (VALUES, missing)


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    kept(tmp_path)
    file = tmp_path / FILE
    content = file.read_bytes()
    places = random.Random(0).sample(range(len(content)), 40)
    for place in places:
        for value in (content[place] ^ 1, 0, 0x80):
            file.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            found, computed = kept(tmp_path)
            assert found == VALUES
            assert computed == (2 if content[place : place + 1] == b"\n" and place + 1 < len(content) else 1)


def test_nothing_is_kept_and_no_folder_made_without_one(tmp_path: Path) -> None:
    journal = Journal()
    assert [journal.of("a", lambda value=value: value) for value in (1, 2)] == [1, 2]  # type: ignore[misc]
    Journal(tmp_path / "scratch").close()
    assert not list(tmp_path.iterdir())


KILLED = """
import os, sys
from pathlib import Path
from epsilon_dpo.pipeline.stage.journal import Journal

journal = Journal(Path(sys.argv[1]))
for number in range(10):
    print(journal.of(number, lambda: print("computed") or number / 3), flush=True)
    if number == int(sys.argv[2]):
        os._exit(9)
"""


def test_a_killed_process_loses_no_batch(tmp_path: Path) -> None:
    run = lambda at: subprocess.run(  # noqa: E731
        [sys.executable, "-c", KILLED, str(tmp_path), str(at)], capture_output=True, text=True
    )
    assert (run(3).returncode, run(6).returncode) == (9, 9)
    done = run(-1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("computed") == 3
    assert [line for line in done.stdout.splitlines() if line != "computed"] == [str(n / 3) for n in range(10)]


def test_the_disk_is_waited_for_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    clock = [100.0]
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: clock[0])
    journal = Journal(tmp_path)
    for number in range(30):
        clock[0] += 0.1
        journal.of(number, lambda: 1)
    assert len(synced) == 3


def test_ten_thousand_batches_cost_a_second(tmp_path: Path) -> None:
    rows, started = [list(range(1000, 1400))], time.process_time()
    journal = Journal(tmp_path)
    for number in range(10_000):
        journal.of(["judge", number, rows], lambda: [0.1, 0.2])
    assert time.process_time() - started < 5.0  # 0.4 s on an idle machine
