"""A digest in a file of the store over all its bytes, and the place it was written for.

A Parquet file has both in its footer's metadata, which other readers ignore, and a checksum a page;
a record (JSON) has them as its last two values. The digest is taken with its own 64 digits blanked,
so there is no bit that it does not cover. The place, a path below the store, is what tells a whole
file from a whole file under another's name. Files of earlier versions have no seal: they are read
as they are.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rsr_ray.errors import one_line

MARK = b"rsr_ray:"  # of both: a file that has either must have both
DIGEST = b"rsr_ray:sha256:"
PLACE = b"rsr_ray:place:"
BLANK = b"0" * 64
Record = dict[str, Any]  # a JSON object
# What Arrow makes of bytes that are no Parquet.
UNREADABLE = (
    pa.ArrowException,
    OSError,
    ValueError,
    KeyError,
    OverflowError,
    MemoryError,
)


class BrokenError(ValueError):
    """Bytes that are not what was written, in a few words."""


class Opened(NamedTuple):
    """What a Parquet file of the store holds."""

    table: pa.Table
    facts: dict[bytes, bytes]  # its footer's metadata
    is_sealed: bool


def write_parquet(
    table: pa.Table, place: str, facts: dict[str, str] | None = None, **how: Any
) -> bytes:
    """The sealed file of a table. `facts` go into the footer's metadata, `how` is Parquet's."""
    return write_tables([table], table.schema, place, facts, **how)


def write_tables(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    place: str,
    facts: dict[str, str] | None = None,
    **how: Any,
) -> bytes:
    """The sealed file of tables, a row group each, as `write_parquet` has it."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, schema, compression="zstd", write_page_checksum=True, **how
    ) as writer:
        for table in tables:
            writer.write_table(table)
        writer.add_key_value_metadata(
            {
                **(facts or {}),
                "place": (PLACE + place.encode()).decode(),
                "seal": (DIGEST + BLANK).decode(),
            }
        )
    return _with_digest(sink.getvalue().to_pybytes())


def read_parquet(
    data: bytes, place: str, columns: list[str] | None = None, schema: pa.Schema | None = None
) -> Opened:
    """The columns, or all, of a file.

    Raises BrokenError, also where a column is not of its type in `schema`.
    """
    is_sealed = check_seal(data, place)
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            facts = file.metadata.metadata or {}
            table = file.read(columns)
            table = (
                table
                if columns is None
                else table.select([name for name in columns if name in table.column_names])
            )
            table.validate(full=not is_sealed)
            if not is_sealed and table.num_rows and _has_checksum(data):  # which came with the seal
                raise BrokenError("its seal is missing")
    except BrokenError:
        raise
    except UNREADABLE as e:
        raise BrokenError(f"not a readable Parquet file ({one_line(e)})") from e
    for field in schema or ():
        at = table.schema.get_all_field_indices(field.name)
        if len(at) > 1 or any(table.schema.field(i).type != field.type for i in at):
            raise BrokenError(f"column {field.name} is not {field.type}")
    return Opened(table, facts, is_sealed)


def write_record(record: Record, place: str) -> bytes:
    """The sealed JSON of a record."""
    ends = {"place": (PLACE + place.encode()).decode(), "seal": (DIGEST + BLANK).decode()}
    return _with_digest(json.dumps(record | ends, indent=1).encode())


def read_record(data: bytes, place: str, keys: tuple[str, ...] = ()) -> Record:
    """The record, without its seal. Raises BrokenError, also where it lacks a key."""
    check_seal(data, place)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BrokenError(f"not JSON ({one_line(e)})") from e
    if not isinstance(record, dict):
        raise BrokenError("not a JSON object")
    if missing := [key for key in keys if key not in record]:
        raise BrokenError(f"has no {', '.join(missing)}")
    return {
        key: value
        for key, value in record.items()
        if key not in ("place", "seal") or MARK.decode() not in str(value)
    }


def check_seal(data: bytes, place: str) -> bool:
    """Whether the file is sealed, and so whole and written for this place. Raises BrokenError."""
    if not data:
        raise BrokenError("empty")
    if data.rfind(MARK) < 0:
        return False
    at = _digest_at(data)
    if at < 0 or data[at : at + len(BLANK)] != _digest(data, at):
        raise BrokenError("its bytes are not the ones that were written (digest)")
    written_for = data.rpartition(PLACE)[2]
    # As Parquet and JSON end a text.
    if not written_for.startswith((place.encode() + b"\0", place.encode() + b'"')):
        raise BrokenError("it was written as another file and moved here")
    return True


def _with_digest(data: bytes) -> bytes:
    at = _digest_at(data)
    return b"".join((data[:at], _digest(data, at), data[at + len(BLANK) :]))


def _digest_at(data: bytes) -> int:
    found = data.rfind(DIGEST)
    return found + len(DIGEST) if found >= 0 else -1


def _digest(data: bytes, at: int) -> bytes:
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:at], BLANK, view[at + len(BLANK) :]):
        digest.update(part)
    return digest.hexdigest().encode()


def _has_checksum(data: bytes) -> bool:
    """Whether the first page of a Parquet file has a checksum.

    It is the fourth field of its header, with three numbers before it (Thrift, compact).
    """
    at, number = 4, 0x15
    for _ in range(3):
        if data[at] != number:
            return False
        at += 1
        while data[at] & 0x80:
            at += 1
        at += 1
    return data[at] == number


def pack(lines: list[str]) -> str:
    """Lines as text for a footer's metadata; names of units in a row take some 10 bytes each."""
    return base64.b64encode(zlib.compress("\n".join(lines).encode())).decode()


def unpack(text: bytes) -> list[str]:
    """What `pack` was given. Raises ValueError."""
    try:
        return zlib.decompress(base64.b64decode(text, validate=True)).decode().splitlines()
    except zlib.error as e:
        raise ValueError(str(e)) from e
