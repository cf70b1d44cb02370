"""Calling a benchmark's tool in its own environment.

A tool works in a folder under verdicts/ that is named by the content of what is judged and by the judge, and that no
run deletes. What a tool has asked stays there: a stage that runs again, after a failure or because DVC saw a change of
code, asks and pays only for what is missing.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Generic, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from epsilon_dpo.external.benchmarks.params import Judge
from epsilon_dpo.external.benchmarks.schemas import Row
from epsilon_dpo.pipeline.observability.errors import UserError, redacted
from epsilon_dpo.pipeline.stage.files import atomic_file, write_jsonl
from epsilon_dpo.pipeline.stage.fingerprint import digest

KEY = "OPENAI_API_KEY"
CONNECT_TIMEOUT_S = 10.0
# What a tool would read beside the key and the address, or in their place: openai 0.28 takes the last three on import.
OTHERS = (
    *("PYTHONPATH", "OPENAI_API_KEYS", "OPENAI_CLIENT_CONFIG_PATH", "OPENAI_ORGANIZATION_IDS"),
    *("OPENAI_API_KEY_PATH", "OPENAI_API_TYPE", "OPENAI_API_VERSION"),
)
Settings = TypeVar("Settings", bound=Judge)


@dataclass(frozen=True)
class Contest(Generic[Settings]):
    """What is to be judged.

    Attributes:
        name: that of the model, as the answer file has it.
        answers: the file in the tool's format.
        data: the folder with the benchmark's own files.
        work: folder in which the tool works.
        lock: what `alone` yields for that folder.
    """

    name: str
    answers: Path
    data: Path
    judge: Settings
    work: Path
    lock: IO[str]


@dataclass(frozen=True)
class Verdict:
    """What a tool said: `metrics` as the stage writes them, `rows` one per question, `tool` with its version."""

    metrics: dict[str, float]
    rows: list[Row]
    tool: str


def work_folder(name: str, answers: Path, files: list[Path], judge: Judge) -> Path:
    """Where the verdicts on these very answers by this judge are kept, whatever environment or speed got them.

    Args:
        files: what the tool reads of the benchmark's own; what else lies beside them changes no verdict.
    """
    asked = judge.model_dump(exclude={"environment", "parallel", "most_failed"}) | {
        "base_url": judge.base_url.rstrip("/")
    }
    read = {str(file): digest(file) for file in files if file.is_file()}  # `copied` names one that is missing
    content = json.dumps([digest(answers), read, asked], sort_keys=True)
    folder = Path("verdicts") / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextmanager
def alone(work: Path) -> Iterator[IO[str]]:
    """Nobody else works in this folder, from the first look at what is kept there on.

    A tool holds the lock as long as it lives, also where the stage that started it was killed: two at once would ask
    and pay for the same questions, and who writes anew what is kept would lose what the other adds meanwhile.

    Raises:
        UserError: another one does.
    """
    with (work / "tool.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"the tool of an earlier run still asks the judge in {work}; wait until it ends, or end it, and run "
                "this stage again: what it has asked is kept."
            ) from None
        yield lock


def environment_python(judge: Judge, benchmark: str) -> Path:
    """The tool's interpreter.

    Raises:
        UserError: the environment does not exist.
    """
    python = Path(judge.environment).absolute() / "bin" / "python"
    if not python.exists():
        raise UserError(
            f"{judge.environment} (judge.{benchmark}.environment in external/params.yaml) holds no environment; make "
            f"it with `bash external/make_environment.sh {benchmark}`."
        )
    return python


def reach(judge: Judge) -> str:
    """Ask the endpoint whether it is there, before a tool retries for an hour; returns the key.

    Raises:
        UserError: no key is set or it cannot be one, the endpoint does not answer, or it refuses the key.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise UserError(f"{KEY} is not set; export the key of {judge.base_url} (any text where none is asked for).")
    if not (key.isascii() and key.isprintable()):  # urlopen's own refusal would show it
        raise UserError(f"{KEY} holds a line break or a character that stands in no key; export it anew.")
    try:
        request = Request(f"{judge.base_url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"})
        urlopen(request, timeout=CONNECT_TIMEOUT_S).close()
    except HTTPError as error:
        if error.code in (401, 403) and not _is_restricted(error):
            raise UserError(
                f"{judge.base_url} refuses the key in {KEY} ({error.code}); export the right one."
            ) from None
    except (OSError, HTTPException, ValueError) as error:  # no server, no HTTP, no address
        reason = getattr(error, "reason", repr(error))
        raise UserError(
            f"The judge at {judge.base_url} does not answer ({reason}); start it, or fix judge.*.base_url in "
            "external/params.yaml."
        ) from None
    return key


def _is_restricted(error: HTTPError) -> bool:
    """Whether the key is a right one that may not list models, which says nothing about what else it may do."""
    with suppress(OSError, HTTPException):
        return b"missing scopes" in error.read().lower()
    return False


def call(python: Path, arguments: list[str], contest: Contest[Settings]) -> None:
    """Run the tool in the contest's folder; what it prints goes to tool.log there.

    Raises:
        UserError: it failed; the sentence ends with the last line that it printed.
    """
    key = reach(contest.judge)
    url = contest.judge.base_url.rstrip("/")
    # OPENAI_API_BASE: alpaca_eval and openai < 1. OPENAI_BASE_URL: openai >= 1.
    chosen = {KEY: key, "OPENAI_API_BASE": url, "OPENAI_BASE_URL": url, "PYTHONUNBUFFERED": "1"}
    chosen["OPENAI_MAX_CONCURRENCY"] = str(contest.judge.parallel)  # alpaca_eval's only knob
    environment = {name: value for name, value in os.environ.items() if name not in OTHERS} | chosen
    log = contest.work / "tool.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [str(python), *arguments],
            cwd=contest.work,
            env=environment,
            input="\n",  # FastChat waits for Enter
            text=True,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=(contest.lock.fileno(),),
            check=False,
        )
    if done.returncode:
        printed = log.read_text("utf-8", errors="replace").strip().splitlines() or ["nothing"]
        raise UserError(
            f"the tool ended with code {done.returncode}; all it printed is in {log}, what it has asked is kept, and "
            f"its last line is: {redacted(printed[-1].strip())[:300]}"
        )


def refuse_failed(failed: int, asked: int, contest: Contest[Settings]) -> None:
    """Raises: UserError: the endpoint failed on more than `most_failed` of `asked` questions."""
    if failed > contest.judge.most_failed:
        raise UserError(
            f"the judge failed on {failed} of {asked} questions, as {contest.work}/tool.log tells; run this stage "
            f"again, which asks for these only, or, if it refuses them for ever, count them as missing with "
            f"judge.{contest.data.name}.most_failed = {failed} in external/params.yaml."
        )


def version(python: Path, package: str) -> str:
    """`package` and its version in the tool's environment."""
    command = f"import importlib.metadata as m; print(m.version({package!r}))"
    return f"{package} {subprocess.run([str(python), '-c', command], capture_output=True, text=True).stdout.strip()}"


def copied(source: Path, target: Path) -> None:
    """`source` as `target`, its folders made.

    Raises:
        UserError: it does not exist.
    """
    if not source.is_file():
        raise UserError(f"external/{source} does not exist; docs/external.md says where it comes from.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def kept_rows(path: Path) -> list[Row]:
    """The JSON lines of `path`, none if there is no such file; a line cut off by a crash is left out."""
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:  # U+2028 in a text ends no line
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except ValueError:  # no JSON, or cut within a character
            continue
    return rows


def replace_rows(path: Path, rows: list[Row]) -> None:
    """Let `path`, if there is such a file, hold `rows` alone: a kill or a full disk leaves the one or the other."""
    if path.exists():
        with atomic_file(path) as partial:
            write_jsonl(partial, rows)
