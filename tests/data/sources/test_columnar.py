"""Parquet and Arrow files: cut off, damaged, or with types that Python has no value for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_data import pairs_of, read, write

from epsilon_dpo.data.sources.formats import DataFile, rows_of
from epsilon_dpo.pipeline.observability.errors import UserError

ROWS = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
TABLE = pa.Table.from_pylist(ROWS)


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def stream(table: pa.Table, new: Callable[..., Any] = pa.ipc.new_stream, batch: int = 5, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, batch)
    return bytes(sink.getvalue().to_pybytes())


def save(table: pa.Table, name: str) -> Path:
    path = write(f"data/{name}", stream(table) if name.endswith(".arrow") else b"")
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    return path


def borders(raw: bytes) -> list[int]:
    """Where a stream's messages end: after its schema and after each batch."""
    source = pa.BufferReader(raw)
    reader = pa.ipc.open_stream(source)
    return [source.tell(), *(source.tell() for _ in reader)]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_stream_that_is_cut_between_two_batches_is_refused(legacy: bool) -> None:
    """Its whole batches would be read as all there are; the mark at its end says that none is missing."""
    entire = stream(TABLE, use_legacy_format=legacy)
    write("data/a.arrow", entire)
    assert len(pairs_of(read(path="data/a.arrow"))) == 20
    cuts = borders(entire)
    assert len(cuts) == 5
    for cut in cuts:
        write("data/a.arrow", entire[:cut])
        with pytest.raises(UserError, match=r"^data/a\.arrow ends without the mark that ends an Arrow stream, .*again"):
            read(path="data/a.arrow")


def test_no_beginning_of_a_stream_or_file_is_taken_for_all_of_it() -> None:
    table = TABLE.set_column(0, "prompt", TABLE["prompt"].dictionary_encode())
    for entire in (stream(table), stream(table, pa.ipc.new_file)):
        path = write("data/a.arrow", entire)
        file = DataFile(path, "a.arrow", "a.arrow")
        assert len(list(rows_of(file))) == 20
        for cut in [*range(1, len(entire), 37), len(entire) - 4, len(entire) - 1]:
            path.write_bytes(entire[:cut])
            with pytest.raises(UserError, match=r"^a\.arrow "):
                list(rows_of(file))


def test_two_streams_in_one_file_are_refused() -> None:
    write("data/a.arrow", stream(TABLE) * 2)
    with pytest.raises(UserError, match=r"data/a\.arrow goes on after the end of its Arrow stream; write one stream"):
        read(path="data/a.arrow")


def test_places_beyond_the_data_are_no_crash_of_the_process() -> None:
    """Arrow trusts what a file says where its texts begin, and reads wherever that is."""
    entire = stream(TABLE.select(["prompt"]))
    places = b"".join(n.to_bytes(4, "little") for n in (0, 10, 20, 30, 40, 50))  # of the first batch's texts
    assert entire.count(places) >= 1
    write("data/a.arrow", entire.replace(places, places[:8] + b"\xff\xff\xff\x7f" + places[12:], 1))
    with pytest.raises(UserError, match=r"data/a\.arrow is no arrow file, or it is cut off or damaged"):
        read(path="data/a.arrow")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_that_is_named_twice_is_refused(name: str) -> None:
    """A row has one value for a name: the other would be lost."""
    twice = pa.Table.from_arrays([*TABLE.columns, TABLE["prompt"]], names=["prompt", "chosen", "rejected", "chosen"])
    save(twice, name)
    with pytest.raises(UserError, match=rf"data/{name} has two columns 'chosen'; name each column once"):
        read(path=f"data/{name}")


@pytest.mark.parametrize("size", [600, 300, 100])
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_each_row_is_read_once_whatever_the_size_of_batches_and_row_groups(name: str, size: int) -> None:
    """`datasets` writes Arrow batches of 1,000 rows, and parquet files of the Hub have several row groups."""
    rows = [{"prompt": f"question {n}"} for n in range(600)]
    table = pa.Table.from_pylist(rows)
    path = write(f"data/{name}", stream(table, batch=size))
    if name == "a.parquet":
        pq.write_table(table, path, row_group_size=size)
    assert list(rows_of(DataFile(path, name, name))) == list(enumerate(rows, start=1))


BEYOND = {  # what Python has no value for
    "year": pa.array([2**55] * 20, pa.timestamp("s")),
    "day": pa.array([2**31 - 1] * 20, pa.date32()),
    "span": pa.array([2**62] * 20, pa.duration("s")),
    "zone": pa.array([1] * 20, pa.timestamp("us", tz="Mars/Base")),
    "names": pa.StructArray.from_arrays([pa.array([1] * 20), pa.array([2] * 20)], names=["a", "a"]),
}


@pytest.mark.parametrize("column", list(BEYOND))
def test_a_value_that_python_cannot_hold_costs_nothing_beside_the_pairs(column: str) -> None:
    save(TABLE.append_column(column, BEYOND[column]), "a.arrow")
    assert len(pairs_of(read(path="data/a.arrow"))) == 20
    save(TABLE.append_column("margin", BEYOND[column]), "a.arrow")
    with pytest.raises(UserError, match=r"data/a\.arrow has no shape .* margin \(unreadable "):
        read(path="data/a.arrow")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_bytes_that_are_no_text_are_named_with_row_and_column(name: str) -> None:
    whole = [f"good {n}".encode() for n in range(20)]
    data = pa.py_buffer(b"".join([*whole[:7], b"caf\xe9 \x80", *whole[8:]]))
    places = pa.array([0, *(sum(map(len, whole[: n + 1])) for n in range(20))], pa.int32()).buffers()[1]
    latin = pa.Array.from_buffers(pa.string(), 20, [None, places, data])
    save(TABLE.set_column(1, "chosen", latin), name)
    with pytest.raises(UserError, match=rf"data/{name}, row 8: chosen is unreadable string \('utf-8' codec can't .*\)"):
        read(path=f"data/{name}")
    save(TABLE.append_column("note", latin), name)
    assert len(pairs_of(read(path=f"data/{name}"))) == 20


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_texts_of_every_type_are_texts(kind: str) -> None:
    for name in ("a.parquet", "a.arrow"):
        columns = {
            column: TABLE[column].dictionary_encode() if kind == "dictionary" else TABLE[column].cast(kind)
            for column in TABLE.column_names
        }
        save(pa.table(columns), name)
        pairs = pairs_of(read(path=f"data/{name}"))
        turns = [[turn["content"] for turn in (*pair["chosen"], *pair["rejected"])] for pair in pairs]
        assert turns == [[row["prompt"], row["chosen"], row["prompt"], row["rejected"]] for row in ROWS]
