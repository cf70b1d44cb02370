"""The one exception whose message is written for the user, and what no message may contain."""

import os
import re

# Of judges, the Hub and MLflow. Their values reach a message when a server says what it was sent.
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORTEST_SECRET = 8  # characters; local servers take values such as "none" or "EMPTY", which are none
LOGIN = re.compile(r"(?<=://)[^/\s'\"]+@")  # user:password@ of an address


class UserError(Exception):
    """Something outside the code is wrong: a number, a file, a folder, a network.

    The message is one sentence that says what is wrong, where, and what to do. A stage prints it without a traceback
    and exits with 1; any other exception is a bug in this project and keeps its traceback. Secrets in it are blacked
    out, since it may quote a server.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


def redacted(text: str) -> str:
    """`text` with *** for each secret of the environment (SECRETS) and for the login in an address."""
    for secret in (part for name in SECRETS for part in os.environ.get(name, "").split()):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return LOGIN.sub("***@", text)


def first_line(error: Exception) -> str:
    """What a library says, short enough for a sentence; transformers' advice to run a model's code is left out."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it needs code of its own, which is never run here; choose a model that transformers itself knows"
    return text.split("\n")[0].rstrip(".")
