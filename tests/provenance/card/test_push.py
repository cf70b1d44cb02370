"""`epsilon-dpo push` against a small server that answers as the Hub does: what arrives there, and what is refused."""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_stand_in import REVISION, WritableHub, point_to
from huggingface_hub import ModelCard

from epsilon_dpo.cli import main
from epsilon_dpo.provenance.card.push import licence_of

Asked = Callable[..., str]


pytestmark = pytest.mark.slow


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[WritableHub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), WritableHub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)  # whose server this is not
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    for kept in (WritableHub.made, WritableHub.held, WritableHub.commits, WritableHub.requests, WritableHub.removed):
        kept.clear()
    yield WritableHub
    server.shutdown()
    server.server_close()


def test_a_policy_arrives_with_its_card_in_one_commit(
    hub: type[WritableHub], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", "better", "owner/new", "--licence", "apache-2.0"])
    assert f"/owner/new/commit/{REVISION}" in capsys.readouterr().out
    assert hub.made["owner/new"]["visibility"] == "private"
    ((said, files),) = hub.commits
    folder = Path("out/align/better/model")
    assert {name: files[name] for name in files if name != "README.md"} == {
        file.name: file.read_bytes() for file in folder.iterdir()
    }
    assert "model.safetensors" in files and "manifest.json" in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.model_name == "better" and "sha256" in said
    (won,) = card.data.eval_results
    assert (won.metric_value, won.metric_args["low"], won.metric_args["high"]) == (0.7, 0.66, 0.74)
    main(["card", "better", "--licence", "apache-2.0"])
    shown = capsys.readouterr().out
    assert "`out" not in shown and shown.replace("REPOSITORY", "owner/new").split("```python")[1] in (
        files["README.md"].decode() + "\n"
    )
    main(["push", "plain", "owner/new-to-all", "--public"])
    assert hub.made["owner/new-to-all"]["visibility"] == "public" and len(hub.commits) == 2


def test_what_an_earlier_push_left_is_removed(
    hub: type[WritableHub], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "there", [".gitattributes", "README.md", "adapter_config.json", "model.safetensors"])
    main(["push", "better", "owner/new"])
    assert hub.removed == ["adapter_config.json"]


def test_a_push_beside_another_one_leaves_no_mixture_of_both(
    hub: type[WritableHub], project: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's commit came while the weights were being sent, and its files were not known here to be removed."""
    send = hub.do_PUT

    def meanwhile(server: WritableHub) -> None:
        monkeypatch.setattr(hub, "head", "f" * 40)
        send(server)

    monkeypatch.setattr(hub, "do_PUT", meanwhile)
    assert "owner/new got another commit while this one was being sent" in refused("push", "better", "owner/new")
    assert hub.commits == []


def test_what_the_hub_refuses_is_one_sentence(
    hub: type[WritableHub], project: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not let you write owner/forbidden" in refused("push", "better", "owner/forbidden")
    assert "'a/b/c' is no Hub repository name" in refused("push", "better", "a/b/c")
    said = refused("push", "better", "owner/new", "--licence", "none-such")
    assert "refuses the card of owner/new" in said and '"license" must be one of' in said
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused("push", "better", "owner/new")
    assert hub.commits == []


def test_an_upload_that_breaks_off_leaves_nothing_visible_and_is_a_sentence(
    hub: type[WritableHub], project: Path, refused: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "do_PUT", lambda server: server.reply({}, 403))
    said = refused("push", "better", "owner/new")
    assert "owner/new did not get all files (Error while uploading 'model.safetensors'" in said
    assert hub.commits == []


def test_nothing_is_sent_of_outputs_that_are_not_those_of_the_lock(
    hub: type[WritableHub], project: Path, refused: Asked
) -> None:
    weights = Path("out/align/better/model/model.safetensors")
    os.chmod(weights, 0o644)
    weights.write_bytes(b"others")
    assert "is not what dvc.lock records" in refused("push", "better", "owner/new")
    assert hub.requests == []


def test_the_licence_of_a_repository_is_that_of_its_page(
    hub: type[WritableHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "card", {"license": "mit"})
    assert licence_of("owner/open", REVISION, "dataset") == licence_of("owner/open", REVISION, "model") == "mit"
    monkeypatch.setattr(hub, "card", {"license": ["mit", "gemma"]})
    assert licence_of("owner/open", REVISION, "dataset") == "mit, gemma"
    monkeypatch.setattr(hub, "card", {})
    assert licence_of("owner/open", REVISION, "dataset") is None
    assert licence_of("owner/unknown", REVISION, "model") is None
