"""What no message may contain."""

import pytest

from epsilon_dpo.pipeline.observability.errors import UserError, redacted
from epsilon_dpo.pipeline.observability.tracker import Tracker, _line

SECRETS = (
    "OPENAI_API_KEY",
    "VLLM_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_environment_stands_in_no_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hf_0123456789")
    assert redacted("401: hf_0123456789 is wrong") == "401: *** is wrong"
    assert str(UserError("401: hf_0123456789 is wrong.")) == "401: *** is wrong."
    assert "hf_0123456789" not in _line("tags", tags={"error": "ValueError: Bearer hf_0123456789"})


def test_a_word_that_servers_without_keys_are_sent_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert redacted("none of them") == "none of them"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pass@host/v1 fails", "http://***@host/v1 fails"),
        ("see 'https://t0ken@host' or a@b.org", "see 'https://***@host' or a@b.org"),
        ("http://u:p@ss@host:80/x@y", "http://***@host:80/x@y"),
        ("http://host/x@y and align@dpo", "http://host/x@y and align@dpo"),
    ],
)
def test_a_login_in_an_address_stands_in_no_message(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_an_error_that_is_no_user_error_is_tagged_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    tracker, sent = Tracker("demo", "0" * 64, {}, {}), []
    monkeypatch.setattr(tracker, "set_tags", sent.append)
    error = RuntimeError("x" * 980 + "hf_0123456789")
    tracker.__exit__(RuntimeError, error, None)
    assert sent == [{"error": "RuntimeError: " + ("x" * 980 + "***")}]
