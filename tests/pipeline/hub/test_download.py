"""The Hub's failures, from a small server that answers as the Hub does, and without a server."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from hub_stand_in import REVISION, Hub, point_to

from epsilon_dpo.pipeline.hub.download import hub_file, hub_folder, hub_names
from epsilon_dpo.pipeline.observability.errors import UserError

FILES = {
    "harmless-base/test.jsonl.gz": b"rows",
    "config.json": b"{}",
    "model.safetensors": b"w",
    "model.bin": b"pickle",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    Hub.requests.clear()
    monkeypatch.setattr(Hub, "files", FILES)
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_downloaded_once(hub: ThreadingHTTPServer) -> None:
    for _ in range(2):
        assert hub_file("owner/open", "harmless-base/test.jsonl.gz", REVISION, "dataset").read_bytes() == b"rows"
        asked, Hub.requests[:] = len(Hub.requests), []
    assert asked == 0, "a pinned file in the cache needs no network"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9/"])
def test_a_proxy_that_cannot_be_used_is_one_sentence(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    huggingface_hub.close_session()
    with pytest.raises(UserError, match=r"cannot be asked through the proxy .*: unset all_proxy"):
        hub_file("owner/open", "config.json", REVISION, "dataset")


def test_a_folder_holds_no_pickles_and_survives_the_network(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    folder = hub_folder("owner/open", REVISION, ["*.json", "*.safetensors"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # put back by the fixture's monkeypatch
    assert hub_folder("owner/open", REVISION, ["*.json", "*.safetensors"]) == folder


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_too_busy_or_broken_stops_nothing_that_is_complete_in_the_cache(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    folder = hub_folder("owner/open", REVISION, ["*.json"])
    monkeypatch.setattr(Hub, "fault", status)
    assert hub_folder("owner/open", REVISION, ["*.json"]) == folder
    with pytest.raises(UserError, match=f"not in the local cache and http.* answers with status {status}: try again"):
        hub_folder("owner/open", REVISION, ["*.json", "*.safetensors"])  # of which the cache has a part
    with pytest.raises(UserError, match=f"status {status}"):
        hub_folder("owner/other", REVISION, ["*.json"])


def test_a_repository_that_is_private_by_now_is_taken_from_the_cache(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a shell without the token: the Hub shows none then."""
    folder = hub_folder("owner/open", REVISION, ["*.json"])
    monkeypatch.setattr(Hub, "do_GET", lambda self: self.answer(401, error="RepoNotFound"))
    assert hub_folder("owner/open", REVISION, ["*.json"]) == folder
    with pytest.raises(UserError, match="The Hub shows no model owner/other"):
        hub_folder("owner/other", REVISION, ["*.json"])
    cached = folder.parents[1]  # of another program, which has fetched a part, there is no list of files
    shutil.copytree(cached, cached.with_name("models--owner--part"), symlinks=True, ignore=lambda *_: ["trees"])
    with pytest.raises(UserError, match=r"The Hub shows no model owner/part.*log in"):
        hub_folder("owner/part", REVISION, ["*.json"])


def test_the_names_that_hf_download_has_kept_need_no_network(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub.snapshot_download("owner/open", repo_type="dataset", revision=REVISION)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub_names("owner/open", REVISION, "dataset") == sorted(FILES)
    with pytest.raises(UserError, match=r"^the list of the files of owner/open at .* HF_HUB_OFFLINE forbids"):
        hub_names("owner/open", "f" * 40, "dataset")


def test_a_cache_that_cannot_be_written_keeps_no_names_and_stops_nothing(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")  # as a read-only one, which root could write
    assert hub_names("owner/open", REVISION, "dataset") == sorted(FILES)


def test_the_names_of_a_repository_are_asked_for_once(hub: ThreadingHTTPServer) -> None:
    assert hub_names("owner/open", REVISION, "dataset") == sorted(FILES)
    hub_file("owner/open", "config.json", REVISION, "dataset")
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # put back by the fixture's monkeypatch
    assert hub_names("owner/open", REVISION, "dataset") == sorted(FILES)
    assert not huggingface_hub.scan_cache_dir().warnings
    with pytest.raises(UserError, match="cannot be reached"):
        hub_names("owner/open", REVISION, "model")


def test_names_that_a_loss_of_power_cut_off_are_asked_for_again(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """Nothing waits until they are on the disk, and an empty file stopped the stage for good."""
    hub_names("owner/open", REVISION, "dataset")
    [kept] = (tmp_path / "cache").rglob("names-*")
    for left in ("", '["config.json", "harm'):
        kept.write_text(left)
        assert hub_names("owner/open", REVISION, "dataset") == sorted(FILES) == json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("repo", "revision", "name", "sentence"),
    [
        ("owner/gated", REVISION, "config.json", "owner/gated is gated: accept its terms at http"),
        ("owner/closed", REVISION, "config.json", "owner/closed is gated"),
        ("owner/absent", REVISION, "config.json", "The Hub shows no model owner/absent: check the name"),
        ("owner/open", "f" * 40, "config.json", f"owner/open has no revision {'f' * 40}"),
        ("owner/open", REVISION, "a/test.json", "holds no a/test.json; it holds config.json."),
        ("no name at all", REVISION, "config.json", "'no name at all' is no Hub repository name"),
    ],
)
def test_a_refusal_is_one_sentence(
    hub: ThreadingHTTPServer, repo: str, revision: str, name: str, sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        hub_file(repo, name, revision, "model")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gated_model_is_one_sentence(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(UserError, match=r"owner/gated is gated.*hf auth login"):
        hub_folder("owner/gated", REVISION, ["*.json"])


def test_an_unreachable_hub_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", tmp_path, monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("huggingface_hub's own retries take 23 s"))
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached \(ConnectError\): check the network"):
        hub_file("owner/open", "config.json", REVISION, "dataset")
    with pytest.raises(UserError, match="cannot be reached"):
        hub_folder("owner/open", REVISION, ["*.json"])


def test_offline_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("https://huggingface.co", tmp_path, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids the download"):
        hub_file("owner/open", "config.json", REVISION, "dataset")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids the download"):
        hub_folder("owner/open", REVISION, ["*.json"])
