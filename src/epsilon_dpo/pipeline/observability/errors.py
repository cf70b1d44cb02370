"""The one exception whose message is written for the user, what none may contain, and a stdout that fails nobody."""

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Variables whose values reach a message when a server says what it was sent, or a line names what is set: those of
# judges, the Hub, MLflow, stores.
SECRETS = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$")
SHORTEST_SECRET = 8  # characters; local servers take values such as "none" or "EMPTY", which are none
LOGIN = re.compile(r"(?<=://)[^/\s'\"]+@")  # user:password@ of an address
# What a terminal obeys and does not show: categories of Unicode (controls, lone surrogates, line and paragraph
# separators), and bidirectional classes, which turn the text after them around.
CONTROLS, TURNS = {"Cc", "Cs", "Zl", "Zp"}, {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

NO_MEMORY = re.compile("out of memory|allocate memory", re.IGNORECASE)  # of CUDA, of torch's allocator, of the system


class UserError(Exception):
    """Something outside the code is wrong: a number, a file, a folder, a network.

    The message is one sentence that says what is wrong, where, and what to do. A stage prints it without a traceback
    and exits with 1; any other exception is a bug in this project and keeps its traceback. Secrets in it are blacked
    out, since it may quote a server, and control characters spelt out, since it may quote a dataset.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(redacted(message)))


class NotServed(UserError):
    """A server has not given what was asked for: it may tomorrow, or to somebody with a login. What it has is not known
    by that."""


def redacted(text: str) -> str:
    """`text` with *** for each secret of the environment (SECRETS) and for the login in an address."""
    for secret in (part for name, value in os.environ.items() if SECRETS.search(name) for part in value.split()):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return LOGIN.sub("***@", text)


def fault_of_proxy(address: str, error: Exception) -> NotServed | None:
    """What an HTTP library raises where the environment names a proxy that it cannot use; None: something else."""
    said = redacted(" ".join(str(error).split()))
    if "proxy" not in said.lower():
        return None
    return NotServed(
        f"{address} cannot be asked through the proxy that the environment names ({said}): unset all_proxy, or let "
        "http_proxy and https_proxy name one of HTTP."
    )


@contextmanager
def memory_in_a_sentence(what: str) -> Iterator[None]:
    """Within it, an error that lacks memory becomes a `UserError`; every other passes unchanged.

    Raises:
        UserError: there is too little memory for `what`.
    """
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        said = ". ".join(first_line(error).split(". ")[:2]) or type(error).__name__
        raise UserError(f"There is too little memory for {what} ({said}); free some or choose a smaller one.") from None


def lacks_memory(error: Exception) -> bool:
    """Whether the machine or its GPU had too little memory, which torch says in a RuntimeError, too."""
    return not isinstance(error, UserError) and (
        isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) is not None
    )


def printable(text: str) -> str:
    """`text` with \\u001b and the like for each character that a terminal obeys (CONTROLS, TURNS).

    Line breaks and tabs stay, and all other Unicode. In a quoted text of JSON or YAML the spelling means the character.
    """
    return "".join(f"\\u{ord(sign):04x}" if _obeyed(sign) else sign for sign in text)


def _obeyed(sign: str) -> bool:
    return sign not in "\n\t" and (unicodedata.category(sign) in CONTROLS or unicodedata.bidirectional(sign) in TURNS)


def let_stdout_take_all() -> None:
    """Spell out what the terminal's encoding has no place for (β in Latin-1), as Python does on stderr: what is printed
    about a result must not fail it. A stdout that is closed, or no file, stays as it is."""
    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def discard_stdout() -> None:
    """After an error of stdout: what waits to be written goes nowhere, else Python fails with it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def first_line(error: Exception) -> str:
    """What a library says, short enough for a sentence; transformers' advice to run a model's code is left out."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it needs code of its own, which is never run here; choose a model that transformers itself knows"
    return text.split("\n")[0].rstrip(".")
