"""`fetch.source: mixture`: shares, names and ids, whatever kind its members are of."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from own_data import BLOCK, Row, write

from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.loading import read_source
from epsilon_dpo.data.sources.params import FetchView
from epsilon_dpo.pipeline.observability.errors import UserError
from epsilon_dpo.pipeline.stage.params import parse

WORLD = {"source": "synthetic", "train_pairs": 400, "eval_share": 0.5, "label_temperature": 1.0}
HH = {
    "source": "hh",
    "repo": None,
    "revision": None,
    "folder": "data/hh",
    "subsets": ["harmless-base"],
    "train_split": "test",
    "eval_split": "test",
    "eval_share": 0.5,
    "max_train_pairs": None,
    "max_eval_pairs": None,
}
OWN = {**BLOCK, "path": "data/own.jsonl"}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = [{"prompt": f"own {n}", "chosen": "a", "rejected": "b", "margin": n % 5} for n in range(200)]
    write("data/own.jsonl", own)
    transcripts = [
        {side: f"\n\nHuman: hh {n}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for n in range(60)
    ]
    content = "".join(json.dumps(row) + "\n" for row in transcripts)
    write("data/hh/harmless-base/test.jsonl.gz", b"")
    Path("data/hh/harmless-base/test.jsonl.gz").write_bytes(gzip.compress(content.encode()))


def mix(seed: int = 1, **members: tuple[float, Row]) -> Dataset:
    block = {name: {"share": share, "fetch": fetch} for name, (share, fetch) in members.items()}
    view = parse(FetchView, {"seed": seed, "fetch": {"source": "mixture", "members": block}})
    return read_source(view.fetch, view.seed, Path(f"scratch-{seed}"))


def test_members_of_every_kind_have_their_shares() -> None:
    dataset = mix(world=(0.5, WORLD), people=(0.25, HH), own=(0.25, OWN))
    for part, split in ((dataset.train, "train"), (dataset.eval, "eval")):
        found = Counter(row["source"] for row in part)
        assert len(part) == found.total() and found["people"] == found["own"] == found["world"] // 2 > 20
        assert found == {name: facts["rows"][split] for name, facts in dataset.facts["members"].items()}
    assert len({row["id"] for row in dataset.train}) == len(dataset.train)
    assert all(row["id"].startswith(f"{row['source']}/") for row in dataset.train)
    assert {row["source"] for row in dataset.train if "margin" in row} == {"own"}
    assert dataset.facts["true_reward"] is False
    assert sorted(dataset.facts["files"]) == ["own/own.jsonl", "people/harmless-base/test.jsonl.gz"]
    assert dataset.facts["members"]["own"]["dropped"] == dataset.facts["dropped"] == {"tied": 40}
    assert {row["id"].split("/")[0] for row in dataset.dropped or []} == {"own"} and len(dataset.dropped or []) == 40


def test_what_members_dropped_for_one_reason_is_summed() -> None:
    """Of `own` every fifth of 200 rows is tied, of `other` every fifth of 20, and one has no answer."""
    other: list[Row] = [{"prompt": f"other {n}", "chosen": "a", "rejected": "b", "margin": n % 5} for n in range(20)]
    other[7]["chosen"] = None
    write("data/other.jsonl", other)
    dataset = mix(own=(0.5, OWN), other=(0.5, {**OWN, "path": "data/other.jsonl"}))
    assert dataset.facts["dropped"] == {"null": 1, "tied": 44}
    found = Counter((row["id"].split("/")[0], row["reason"]) for row in dataset.dropped or [])
    assert found == {("own", "tied"): 40, ("other", "tied"): 4, ("other", "null"): 1}


def test_the_seed_decides() -> None:
    def ids(seed: int) -> list[Any]:
        return [row["id"] for row in mix(seed, people=(0.5, HH), own=(0.5, OWN)).train]

    assert ids(1) == ids(1) != ids(2)


def test_which_rows_of_a_member_are_taken_is_drawn_with_the_seed() -> None:
    """Also where the members' own splits are the same for every seed."""
    members = {}
    for name, count in (("one", 40), ("two", 10)):
        for split in ("train", "test"):
            content = [{"prompt": f"{name} {split} {n}", "chosen": "a", "rejected": "b"} for n in range(count)]
            write(f"data/{name}/{split}.jsonl", content)
        members[name] = (0.5, {**BLOCK, "path": f"data/{name}", "eval_split": "test", "eval_share": None})

    def ids(seed: int) -> list[Any]:
        return [row["id"] for row in mix(seed, **members).train]

    assert len(ids(1)) == 20 and ids(1) == ids(1) != ids(2)


def test_a_mixture_without_members_that_drop_rows_lists_none() -> None:
    assert mix(world=(0.5, WORLD), people=(0.5, HH)).dropped is None


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"a": (0.5, WORLD), "b": (0.4, OWN)}, "the shares of members sum to 0.9, not to 1"),
        ({"a": (1.0, WORLD)}, "fetch.members is refused"),
        ({"a-b": (0.5, WORLD), "b": (0.5, OWN)}, "a-b"),
        (
            {"a": (0.5, WORLD), "b": (0.5, {**OWN, "path": "x/y"})},
            "fetch.members.b.fetch.path = x/y is not below data/",
        ),
        (
            {"a": (0.5, WORLD), "b": (0.5, {**OWN, "path": "data/no"})},
            "member b of the mixture: data/no does not exist",
        ),
        ({"a": (0.5, WORLD), "b": (0.5, {**OWN, "pats": 1})}, "unknown key"),
        ({"a": (0.999, {**HH}), "b": (0.001, OWN)}, "leaves none for member b"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_sentence(members: dict[str, tuple[float, Row]], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        mix(**members)
    assert sentence in str(error.value) and "\n" not in str(error.value)
