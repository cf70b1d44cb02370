"""`epsilon-dpo ... | head`: a reader who has enough."""

import os
import subprocess
import sys

CODE = """
import epsilon_dpo.cli as cli
cli._whence = lambda asked: "a line\\n" * 100
cli.main(["whence", "x"])
"""


def test_a_reader_that_closes_its_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", CODE], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
