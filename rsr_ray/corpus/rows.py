"""Shards -> rows, of any format and under the names they are mapped to.

A broken shard ends with one mark behind the rows that can be read.
"""

import collections
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rsr_ray.corpus.json_rows import json_rows
from rsr_ray.corpus.json_text import READ_BYTES, Source
from rsr_ray.corpus.pairs import ANSWERS
from rsr_ray.corpus.reading import Reading, columns_of, trajectories
from rsr_ray.corpus.row_faults import ReadRow, Row, Unreadable, one_line, row_boundary, rows_of
from rsr_ray.corpus.shapes import COLUMNS
from rsr_ray.corpus.shards import ARROW, JSON, PARQUET
from rsr_ray.errors import BadRow
from rsr_ray.files.filesystems import open_filesystem
from rsr_ray.files.objects import InputObject
from rsr_ray.files.rights import rights

ARROW_MAGIC = b"ARROW1"
BATCH_ROWS, BATCH_BYTES = 64, 4 * 1024**2
KNOWN = frozenset(COLUMNS)  # what scoring reads of a row
# What a broken shard makes the readers raise.
UNREADABLE = (
    pa.ArrowException,
    OSError,
    EOFError,
    UnicodeError,
    ValueError,
    RecursionError,
)


@dataclass
class Place:
    """How far into an object its rows have been read."""

    share: float = 0.0  # of the object, 0 to 1


def iter_rows(
    obj: InputObject,
    endpoint: str | None,
    columns: Mapping[str, str],
    only: frozenset[str] | None = KNOWN,
    place: Place | None = None,
) -> Iterator[ReadRow]:
    """The rows of an object in order; a broken one ends with one `Unreadable(shard=True)`.

    Of a Parquet shard the columns `only` and those of `columns` are read, or all where `only` is
    None. Whether the object or the way to it is broken shows from a copy on this machine's disk, on
    which reading goes on. Raises OSError where the store does not give the object, so that the task
    is tried again.
    """
    place = place or Place()
    return _read(obj, endpoint, lambda at, server: _rows(at, server, columns, only, place))


def rows_at(obj: InputObject, endpoint: str | None, places: list[int]) -> Iterator[ReadRow]:
    """The rows of a Parquet shard at these places, ascending, with all columns; else as
    `iter_rows`. What lies between them is read, but no Python is made of it.
    """
    return _read(obj, endpoint, lambda at, server: _parquet_rows_at(at, server, places))


def _read(
    obj: InputObject,
    endpoint: str | None,
    read: Callable[[InputObject, str | None], Iterator[ReadRow]],
) -> Iterator[ReadRow]:
    n = 0
    try:
        for row in read(obj, endpoint):
            yield row
            n += 1
    except UNREADABLE:
        with tempfile.TemporaryDirectory(prefix="rsr_ray-") as folder:
            here = _copy(obj, folder, endpoint)
            try:
                yield from itertools.islice(read(here, None), n, None)
            except UNREADABLE as e:
                yield Unreadable(f"unreadable from here on: {one_line(e)}", shard=True)


def _rows(
    obj: InputObject,
    endpoint: str | None,
    columns: Mapping[str, str],
    only: frozenset[str] | None,
    place: Place,
) -> Iterator[ReadRow]:
    name = obj.uri.lower()
    if name.endswith(PARQUET):
        return _parquet_rows(obj, endpoint, columns, only, place)
    if name.endswith(ARROW):
        return _arrow_rows(obj, endpoint, columns, only, place)
    return _json_rows(obj, endpoint, columns, place)


def parquet_schema(obj: InputObject, endpoint: str | None) -> pa.Schema | None:
    """The columns of a Parquet or Arrow shard with their types.

    None for another format, whose values have JSON's types.
    """
    name = obj.uri.lower()
    if not name.endswith(PARQUET + ARROW):
        return None
    fs, path = open_filesystem(obj.uri, endpoint)
    with rights(obj.uri, endpoint), fs.open_input_file(path) as file:
        return pq.read_schema(file) if name.endswith(PARQUET) else _open_arrow(file).schema


def is_row_each(obj: InputObject, schema: pa.Schema | None, reading: Reading) -> bool:
    """Whether trajectory n of a shard with this `parquet_schema` is its row n, as the types say:
    its answers are texts, and none of its columns holds several.
    """
    if schema is None or not obj.uri.lower().endswith(PARQUET) or reading.roles:
        return False
    mapped = [reading.columns[name] for name in ANSWERS if name in reading.columns]
    if any(column not in schema.names for column in mapped):  # a pattern, or a path into a column
        return False
    kinds = [schema.field(name).type for name in (*ANSWERS, *mapped) if name in schema.names]
    return all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds)


def _copy(obj: InputObject, folder: str, endpoint: str | None) -> InputObject:
    fs, path = open_filesystem(obj.uri, endpoint)
    name = os.path.join(folder, path.rpartition("/")[2])
    with (
        rights(obj.uri, endpoint),
        fs.open_input_stream(path, compression=None) as source,
        open(name, "wb") as file,
    ):
        shutil.copyfileobj(source, file, READ_BYTES)
    return InputObject(uri=name, version=obj.version, size=obj.size)


def _parquet_rows(
    obj: InputObject,
    endpoint: str | None,
    columns: Mapping[str, str],
    only: frozenset[str] | None,
    place: Place,
) -> Iterator[ReadRow]:
    fs, path = open_filesystem(obj.uri, endpoint)
    with fs.open_input_file(path) as file:
        shard = pq.ParquetFile(file)
        n = 0
        for batch in shard.iter_batches(
            batch_size=BATCH_ROWS, columns=_wanted(shard.schema_arrow, columns, only)
        ):
            for row in _batch_rows(batch):
                n += 1
                place.share = n / shard.metadata.num_rows
                yield row


def _parquet_rows_at(
    obj: InputObject, endpoint: str | None, places: list[int]
) -> Iterator[ReadRow]:
    fs, path = open_filesystem(obj.uri, endpoint)
    left = collections.deque(places)
    with fs.open_input_file(path) as file:
        shard = pq.ParquetFile(file)
        columns = _wanted(shard.schema_arrow, {}, None)
        stop = 0
        for group in range(shard.num_row_groups):
            facts = shard.metadata.row_group(group)
            start, stop = stop, stop + facts.num_rows
            if not left or left[0] >= stop:
                continue
            # a batch takes a millisecond, whatever is in it
            together = max(
                BATCH_ROWS, BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)
            )
            for batch in shard.iter_batches(together, row_groups=[group], columns=columns):
                while left and left[0] < start + batch.num_rows:
                    yield from _batch_rows(batch.slice(left.popleft() - start, 1))
                start += batch.num_rows


def _arrow_rows(
    obj: InputObject,
    endpoint: str | None,
    columns: Mapping[str, str],
    only: frozenset[str] | None,
    place: Place,
) -> Iterator[ReadRow]:
    fs, path = open_filesystem(obj.uri, endpoint)
    with fs.open_input_file(path) as file:
        shard = _open_arrow(file)
        wanted = _wanted(shard.schema, columns, only)
        batches = (
            map(shard.get_batch, range(shard.num_record_batches))
            if isinstance(shard, pa.RecordBatchFileReader)
            else shard
        )
        for batch in batches:
            place.share = file.tell() / max(1, obj.size)
            some = batch.select(wanted)
            for start in range(0, some.num_rows, BATCH_ROWS):
                yield from _batch_rows(some.slice(start, BATCH_ROWS))


def _open_arrow(file: pa.NativeFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """An Arrow file in either of its formats; `datasets.save_to_disk` writes the streaming one."""
    magic = file.read(len(ARROW_MAGIC))
    file.seek(0)
    return pa.ipc.open_file(file) if magic == ARROW_MAGIC else pa.ipc.open_stream(file)


def _wanted(
    schema: pa.Schema, columns: Mapping[str, str], only: frozenset[str] | None
) -> list[str]:
    """The columns that are read. Raises ValueError where one of them is there twice."""
    there = schema.names
    mapped_from = columns_of(columns.values(), there)
    wanted = [name for name in there if only is None or name in only or name in mapped_from]
    if not wanted and only == KNOWN:
        wanted = there
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise ValueError(
            f"column {twice[0]!r} appears twice, so it is unclear which one to read; rename one"
        )
    return wanted


def _batch_rows(batch: pa.RecordBatch) -> Iterator[ReadRow]:
    yield from (
        Unreadable(row.detail, reason=row.reason) if isinstance(row, BadRow) else row
        for row in rows_of(batch)
    )


def _json_rows(
    obj: InputObject, endpoint: str | None, columns: Mapping[str, str], place: Place
) -> Iterator[ReadRow]:
    fs, path = open_filesystem(obj.uri, endpoint)
    if obj.size == 0:
        with fs.open_input_stream(path, compression=None) as stream:
            if not stream.read(1):
                yield Unreadable("the file has 0 bytes", shard=True)
                return
    known = KNOWN | {path.partition(".")[0] for path in columns.values()}
    with fs.open_input_stream(path, compression=None) as file:
        source = Source(file, obj.size, compression_of(path))
        for row in json_rows(source, lines_only=not obj.uri.lower().endswith(JSON), known=known):
            place.share = source.share
            yield row


def compression_of(path: str) -> str | None:
    """Of a file, by its name; None where it has the ending of no compression."""
    try:
        return str(pa.Codec.detect(path).name)
    except (TypeError, ValueError):
        return None


def iter_trajectories(
    obj: InputObject,
    endpoint: str | None,
    reading: Reading,
    only: frozenset[str] | None = KNOWN,
    place: Place | None = None,
) -> Iterator[ReadRow]:
    """The rows of an object under their mapped names; one of several answers is several rows."""
    if only is not None:
        only |= columns_of(reading.strata, ())
    for row in iter_rows(obj, endpoint, reading.columns, only, place):
        yield from [row] if isinstance(row, Unreadable) else _trajectories(row, reading)


def _trajectories(row: Row, reading: Reading) -> list[ReadRow]:
    try:
        with row_boundary("reading the row"):
            return [one for one, _ in trajectories(row, reading)]
    except BadRow as e:
        return [Unreadable(e.detail, reason=e.reason)]
