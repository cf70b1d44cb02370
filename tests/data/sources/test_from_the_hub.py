"""`fetch.source: dataset` from a Hub repository, in the form of UltraFeedback binarized, at a pinned commit."""

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from hub_stand_in import REVISION, Hub, point_to
from own_data import read, write
from shape_rows import EXAMPLES

from epsilon_dpo.pipeline.observability.errors import UserError

README = b"""---
configs:
- config_name: default
  data_files:
  - {split: train_prefs, path: data/train_prefs-*}
  - {split: test_prefs, path: data/test_prefs-*}
---
"""
SETTINGS = {"path": "owner/open", "revision": REVISION, "train_split": "train_prefs"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.chdir(tmp_path)
    rows = EXAMPLES["ultrafeedback_binarized"].rows
    shards = {
        f"data/{split}_prefs-00000-of-00001.parquet": write(f"x/{split}.parquet", rows) for split in ("train", "test")
    }
    monkeypatch.setattr(
        Hub, "files", {"README.md": README, **{name: file.read_bytes() for name, file in shards.items()}}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    Hub.requests.clear()
    yield server
    server.shutdown()
    server.server_close()


def test_splits_of_a_repository_are_read_and_only_their_files_downloaded(hub: ThreadingHTTPServer) -> None:
    dataset = read(**SETTINGS, eval_split="train_prefs[:1]", eval_share=None)
    assert [row["margin"] for row in dataset.train] == [1.0, 1.5] and len(dataset.eval) == 1
    assert dataset.facts["revision"] == REVISION and dataset.facts["dropped"] == {"tied": 1}
    assert not [path for path in Hub.requests if "test_prefs" in path]
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # put back by the fixture's monkeypatch
    again = read(**SETTINGS, eval_split="train_prefs[:1]", eval_share=None)
    assert [*again.train] == [*dataset.train], "what is in the cache needs no network"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_split": "train"}, "has no split 'train' (fetch.train_split); its splits are test_prefs, train_prefs."),
        ({"path": "owner/closed"}, "owner/closed is gated: accept its terms"),
        ({"path": "owner/absent"}, "The Hub shows no dataset owner/absent"),
        ({"revision": "f" * 40}, f"owner/open has no revision {'f' * 40}"),
        ({"name": "sft"}, "owner/open at revision 01234567 cannot be read with fetch.name = sft"),
    ],
)
def test_a_refusal_is_one_sentence(hub: ThreadingHTTPServer, changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read(**{**SETTINGS, **changes})
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_description_beside_the_data_is_no_data(hub: ThreadingHTTPServer) -> None:
    """Older repositories have a dataset_infos.json, which was seen as empty."""
    Hub.files["dataset_infos.json"] = b'{"default": {"splits": {}}}'
    assert len(read(**SETTINGS, eval_split="train_prefs[:1]", eval_share=None).train) == 2


def test_of_several_formats_a_local_copy_is_advised(hub: ThreadingHTTPServer) -> None:
    """fetch.path, which takes a glob of local files, is the repository here."""
    del Hub.files["README.md"]
    Hub.files["results.json"] = b"{}"
    with pytest.raises(UserError) as error:
        read(**SETTINGS)
    sentence = str(error.value)
    assert "holds files of several formats (json, parquet); copy it (`hf download owner/open --repo-type" in sentence
    assert sentence.endswith("which then are the one split train, with fetch.path, such as data/NAME/data/*.parquet.")
