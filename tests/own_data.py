"""Rows as files below data/, and `fetch.source: dataset` reading them."""

import bz2
import csv
import gzip
import json
import lzma
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from epsilon_dpo.data.sources.dataset import Dataset
from epsilon_dpo.data.sources.loading import read_source
from epsilon_dpo.data.sources.params import FetchView
from epsilon_dpo.pipeline.stage.params import parse

Row = dict[str, Any]
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
BLOCK: Row = {
    "source": "dataset",
    "path": "data/mine",
    "revision": None,
    "name": None,
    "train_split": "train",
    "eval_split": None,
    "eval_share": 0.5,
    "columns": None,
    "pairs": "best_worst",
    "min_margin": None,
    "max_train_pairs": None,
    "max_eval_pairs": None,
}


def read(seed: int = 1, **changes: Any) -> Dataset:
    """The dataset of BLOCK with `changes`, read in the current folder."""
    view = parse(FetchView, {"seed": seed, "fetch": {**BLOCK, **changes}})
    return read_source(view.fetch, view.seed, Path(tempfile.mkdtemp(dir=".", prefix="scratch-")))  # rows stay there


def pairs_of(dataset: Dataset) -> list[Row]:
    """All rows in file order, without ids."""
    rows = sorted([*dataset.train, *dataset.eval], key=lambda row: int(row["id"].rsplit("/", 1)[1]))
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def write(path: str, content: bytes | str | list[Row]) -> Path:
    """`content` at `path` below the current folder: as it is, or rows in the format that the suffix names."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESS]
    if isinstance(content, list):
        content = _serialised(content, suffixes[-1])
    raw = content.encode() if isinstance(content, str) else content
    file.write_bytes(COMPRESS.get(file.suffix, bytes)(raw))
    return file


def _serialised(rows: list[Row], suffix: str) -> bytes | str:
    if suffix == ".json":
        return json.dumps(rows, indent=1)
    if suffix in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row) + "\n" for row in rows)
    if suffix in (".csv", ".tsv"):
        return _table(rows, "," if suffix == ".csv" else "\t")
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    if suffix == ".parquet":
        pq.write_table(table, sink)
    else:
        assert suffix == ".arrow"
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _table(rows: list[Row], separator: str) -> str:
    file = Path("table.tmp")
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    text = file.read_bytes().decode()
    file.unlink()
    return text
