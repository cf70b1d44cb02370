"""The rows of parquet and Arrow files, whose columns have types: what Python has no value for is `Unreadable`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epsilon_dpo.data.shapes.interface import Unreadable
from epsilon_dpo.data.sources.raw import one_sentence, refuse_what_is_no_data
from epsilon_dpo.pipeline.observability.errors import UserError, first_line
from epsilon_dpo.pipeline.stage.files import Row

BATCH = 256  # rows that are Python objects at a time
END_OF_STREAM = (4, 8)  # bytes of the mark that ends a stream: before Arrow 0.15, since


def columnar_rows(path: Path, shown: str, kind: str) -> Iterator[Row]:
    """The rows of a file of `kind` parquet or arrow, as Arrow gives their values to Python.

    Raises:
        UserError: the file is damaged, cut off or of another kind, names a column twice, or holds no row.
    """
    refuse_what_is_no_data(path, shown)
    empty = True
    with one_sentence(shown), _no_arrow(shown, kind):
        for batch in _parquet_batches(path) if kind == "parquet" else _arrow_batches(path, shown):
            for row in _rows(batch, shown):
                empty = False
                yield row
    if empty:
        raise UserError(f"{shown} holds no row; download or write it again.")


def count_parquet(path: Path, shown: str) -> int:
    """How many rows the file says that it has."""
    import pyarrow.parquet as pq

    refuse_what_is_no_data(path, shown)
    with one_sentence(shown), _no_arrow(shown, "parquet"):
        return pq.read_metadata(path).num_rows


@contextmanager
def _no_arrow(shown: str, kind: str) -> Iterator[None]:
    """What Arrow says of a file that is none of its own, as a `UserError`."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowNotImplementedError as error:
        raise UserError(f"{shown} cannot be read: {first_line(error)}; write it again without that.") from None
    except pa.ArrowException:
        raise UserError(
            f"{shown} is no {kind} file, or it is cut off or damaged; download or write it again."
        ) from None


def _rows(batch: Any, shown: str) -> Iterator[Row]:
    """The rows of a record batch, which Arrow's writer made as large as it liked."""
    names = batch.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{shown} has two columns {twice[0]!r}; name each column once.")
    for column in batch.columns:
        _validate(column)
    for start in range(0, len(batch), BATCH):
        columns = [_values(column[start : start + BATCH]) for column in batch.columns]
        yield from (dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True))


def _validate(column: Any) -> None:
    """Raises: pa.ArrowInvalid: places in `column` point beyond its data, where reading it would end the process.

    Bytes that are no UTF-8 stay: `_values` tells in which row they are.
    """
    import pyarrow as pa

    try:
        column.validate(full=not pa.types.is_primitive(column.type))
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise


def _values(column: Any) -> list[Any]:
    """The values of a column; one that Python has no value for costs a row only if its shape reads it."""
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(cell) for cell in column]


def _value(cell: Any) -> Any:
    import pyarrow as pa

    try:
        return cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return Unreadable(str(cell.type), first_line(error))


def _parquet_batches(path: Path) -> Iterator[Any]:
    """One row group after the other: over several at once, Arrow keeps what it has read of each."""
    import pyarrow.parquet as pq

    with path.open("rb") as opened:
        file = pq.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20)  # by default a row group is read whole
        for group in range(file.num_row_groups):
            yield from file.iter_batches(BATCH, row_groups=[group], use_threads=False)


def _arrow_batches(path: Path, shown: str) -> Iterator[Any]:
    """The record batches of Arrow's file format, or of its stream format, which `datasets` writes.

    Raises:
        UserError: a stream has no mark at its end, so that a part of its batches may be missing, or goes on after it.
    """
    import pyarrow as pa

    with pa.OSFile(str(path)) as opened:
        if opened.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(opened)
            yield from map(reader.get_batch, range(reader.num_record_batches))
            return
        opened.seek(0)
        stream = pa.ipc.open_stream(opened)
        place = opened.tell()
        for batch in stream:
            place = opened.tell()
            yield batch
        end = opened.tell()
        if end - place not in END_OF_STREAM:
            raise UserError(
                f"{shown} ends without the mark that ends an Arrow stream, so it may be cut off between two batches; "
                "download it again, or write it again and close the writer."
            )
        if end != opened.size():
            raise UserError(f"{shown} goes on after the end of its Arrow stream; write one stream into a file.")
