"""parts: the file with the rows of many units, sorted by the hash of their prompts.

It has the columns of their files, and four more: what a reader asks for need not be computed again,
and rows can be told apart by their unit. Its row groups are small, so that rows of some prompts are
read without the others. A seal covers a file only as a whole: where a part is read in places, what
the manifest says covers its footer, and each column of each row group.
"""

import base64
import hashlib
import itertools
import mmap
import zlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsr_ray.errors import one_line
from rsr_ray.files.objects import get, opened
from rsr_ray.files.rights import DeniedError
from rsr_ray.schema import SCORES
from rsr_ray.store import seal
from rsr_ray.store.beside import KEY
from rsr_ray.store.manifest import (
    PART_NAME,
    UNITS_KEY,
    Folder,
    Manifest,
    Part,
    highest,
    pack_units,
    unpack_units,
)
from rsr_ray.store.records import broken
from rsr_ray.store.units import written_ns

GROUP_ROWS = 16_384
GAP = 256 * 1024  # bytes that are read with what is wanted rather than asked for twice
AT_ONCE = 8  # pieces of a file
HASHED = {  # of which columns each is a hash; null counts as empty
    "prompt_hash": ("prompt_id",),
    "row_hash": ("teacher", "trajectory_id", "content"),
    "id_hash": ("teacher", "trajectory_id"),
}
Prompts = tuple[int, int] | np.ndarray  # by hash: [low, high), or those in a sorted int64 array
UNIT_COLUMNS = ("unit", "unit_row")  # which unit a row is of, and its place there
FIRST_BITS = 20  # of hashes, by which most are told apart
FOOTERS = 256  # kept by a process
_footers: dict[str, pq.FileMetaData] = {}  # by digest


def part_bytes(rows: pa.Table, place: str, units: dict[str, str], mark: str | None) -> bytes:
    """The file of a part: SCORES rows, perhaps of an earlier version, with HASHED and UNIT_COLUMNS.

    `units` are what it was made of, with the versions of their files.
    """
    order = np.argsort(rows["prompt_hash"].to_numpy(), kind="stable")
    groups = (
        rows.take(pa.array(order[i : i + GROUP_ROWS])) for i in range(0, len(order), GROUP_ROWS)
    )
    facts = {UNITS_KEY: pack_units(units)} | ({KEY: mark} if mark else {})
    return seal.write_tables(
        groups,
        rows.schema,
        place,
        facts,
        write_statistics=["prompt_hash"],
        sorting_columns=[pq.SortingColumn(rows.schema.get_field_index("prompt_hash"))],
    )


def described(
    name: str, version: str, data: bytes, units: dict[str, str], mark: str | None
) -> Part:
    """A part as a manifest has it, from its file."""
    size = int.from_bytes(data[-8:-4], "little") + 8  # all after its pages
    footer = pq.read_metadata(pa.BufferReader(data))
    checks = [
        zlib.crc32(memoryview(data)[start : start + length])
        for group in range(footer.num_row_groups)
        for start, length in _chunks(footer.row_group(group))
    ]
    return Part(
        name=name,
        version=version,
        footer=hashlib.sha256(data[-size:]).hexdigest(),
        footer_size=size,
        checks=base64.b64encode(np.array(checks, "<u4").tobytes()).decode(),
        n_rows=footer.num_rows,
        n_units=len(units),
        mark=mark,
        units=units,
    )


def _chunks(group: pq.RowGroupMetaData) -> list[tuple[int, int]]:
    """Where the columns of a row group begin in the file, and how many bytes each has."""
    columns = [group.column(i) for i in range(group.num_columns)]
    return [
        (
            c.dictionary_page_offset if c.has_dictionary_page else c.data_page_offset,
            c.total_compressed_size,
        )
        for c in columns
    ]


def rebuilt(folder: Folder) -> Manifest:
    """What parts say of themselves, to follow a manifest that is broken.

    Of a unit in several the last written has it. Units that were deleted since are there again: a
    run deletes those of replaced shards once more.
    """
    manifest = Manifest()
    files = folder.files()
    for name in sorted(filter(PART_NAME.fullmatch, files), key=lambda n: written_ns(files[n])):
        place = f"{folder.place}/{name}"
        try:
            data = get(folder.uri(name), folder.endpoint)
            found = seal.read_parquet(data, place, [])
            units = unpack_units(found.facts[UNITS_KEY.encode()].decode())
        except (seal.BrokenError, FileNotFoundError):
            continue
        mark = found.facts.get(KEY.encode(), b"").decode() or None
        part = described(name, files[name], data, units, mark)
        manifest = Manifest(0, (*manifest.without(units).parts, part))
    return Manifest(highest(files), manifest.parts)


def read_part(
    where: tuple[str, str, str | None],
    part: Part,
    units: Collection[str],
    columns: list[str],
    prompts: Prompts | None = None,
) -> pa.Table:
    """The rows of these units in a part, or those of some prompts; of `columns` those that it has.

    `where` are the store, the place of the part there, and its endpoint. Raises FileNotFoundError
    without it, StoreError where it is not what was written.
    """
    store, place, endpoint = where
    some = len(units) < part.n_units
    extra = [*(["unit"] if some else []), *([] if prompts is None else ["prompt_hash"])]
    try:
        with opened(f"{store}/{place}", endpoint) as file:
            rows = _read_groups(file, part, list(dict.fromkeys([*columns, *extra])), prompts)
    except (FileNotFoundError, DeniedError):
        raise
    except seal.UNREADABLE as e:  # or the connection broke: the whole file says which
        try:
            seal.check_seal(get(f"{store}/{place}", endpoint), place)
        except seal.BrokenError as found:
            raise broken(store, place, found) from None
        if isinstance(e, OSError):
            raise
        raise broken(store, place, one_line(e)) from None
    if prompts is not None:
        rows = rows.filter(within(rows["prompt_hash"].to_numpy(), prompts))
    if some:
        rows = rows.filter(pc.is_in(rows["unit"].cast(pa.string()), pa.array([*units])))
    return rows.select([name for name in columns if name in rows.column_names])


def _read_groups(
    file: pa.NativeFile, part: Part, columns: list[str], prompts: Prompts | None
) -> pa.Table:
    """The row groups that have rows of these prompts. Raises one of `seal.UNREADABLE`."""
    footer = _footers.get(part.footer)
    if footer is None:
        footer = _read_footer(file, part)
        if len(_footers) >= FOOTERS:
            _footers.clear()
        _footers[part.footer] = footer
    groups = [i for i in range(footer.num_row_groups) if _may_have(footer.row_group(i), prompts)]
    if isinstance(prompts, np.ndarray):  # nearly every group spans some of many: look
        found = _columns_of(file, part, footer, groups, ["prompt_hash"])["prompt_hash"]
        has = within(found.to_numpy(), prompts).to_numpy(zero_copy_only=False)
        ends = np.cumsum([footer.row_group(i).num_rows for i in groups])
        pairs = zip(groups, np.split(has, ends[:-1]), strict=True) if groups else ()
        groups = [i for i, some in pairs if some.any()]
    rows = _columns_of(file, part, footer, groups, columns)
    for field in SCORES:
        at = rows.schema.get_field_index(field.name)
        if at >= 0 and rows.schema.field(at).type != field.type:
            raise seal.BrokenError(f"column {field.name} is not {field.type}")
    return rows.replace_schema_metadata()


def _columns_of(
    file: pa.NativeFile, part: Part, footer: pq.FileMetaData, groups: list[int], columns: list[str]
) -> pa.Table:
    """Columns of some row groups, of these those that there are."""
    read = _read_chunks(file, part, footer, groups, {*columns})
    with pq.ParquetFile(pa.BufferReader(read), metadata=footer) as parquet:
        there = {*parquet.schema_arrow.names}
        return parquet.read_row_groups(groups, [name for name in columns if name in there])


def _read_chunks(
    file: pa.NativeFile, part: Part, footer: pq.FileMetaData, groups: list[int], columns: set[str]
) -> mmap.mmap:
    """The file with only the bytes of these columns in it, each as it was written, else zeros.

    Zeros take no memory. A checksum of Parquet's own covers no header of a page.
    Raises BrokenError.
    """
    checks = np.frombuffer(base64.b64decode(part.checks), "<u4").reshape(
        footer.num_row_groups, footer.num_columns
    )
    wanted = [
        (*chunk, check)
        for group in groups
        for i, (chunk, check) in enumerate(
            zip(_chunks(footer.row_group(group)), checks[group].tolist(), strict=True)
        )
        if footer.schema.column(i).path.partition(".")[0] in columns
    ]
    runs: list[list[int]] = []  # start, stop
    for start, length, _ in sorted(wanted):
        if runs and start - runs[-1][1] < GAP:
            runs[-1][1] = start + length
        else:
            runs.append([start, start + length])
    whole = mmap.mmap(-1, part.size)
    view = memoryview(whole)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (start, stop), data in zip(
            runs, pool.map(lambda run: file.read_at(run[1] - run[0], run[0]), runs), strict=True
        ):
            view[start:stop] = data
    if any(zlib.crc32(view[start : start + n]) != check for start, n, check in wanted):
        raise seal.BrokenError("a column is not what was written (checksum)")
    return whole


def _read_footer(file: pa.NativeFile, part: Part) -> pq.FileMetaData:
    """Raises BrokenError where it is not the one that was written."""
    file.seek(max(0, part.size - part.footer_size))
    data = file.read(part.footer_size)
    if hashlib.sha256(data).hexdigest() != part.footer:
        raise seal.BrokenError("its footer is not the one that was written (digest)")
    return pq.read_metadata(pa.BufferReader(b"PAR1" + data))


def _may_have(group: pq.RowGroupMetaData, prompts: Prompts | None) -> bool:
    if prompts is None:
        return True
    if isinstance(prompts, np.ndarray):
        if not len(prompts):
            return False
        prompts = int(prompts[0]), int(prompts[-1]) + 1
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == "prompt_hash" and column.statistics is not None:
            low, high = prompts
            return bool(column.statistics.max >= low and column.statistics.min < high)
    return True


def within(values: np.ndarray, prompts: Prompts) -> pa.Array:
    """Which prompt hashes are among these; `high` may be 2**63."""
    if isinstance(prompts, np.ndarray):
        return pa.array(among(values, prompts))
    low, high = prompts
    return pa.array((values >= low) & (values <= high - 1))


def among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which of many hashes are among a few, sorted: bool [N]."""
    first = np.zeros(1 << FIRST_BITS, bool)
    first[(some >> 64 - FIRST_BITS) + (1 << FIRST_BITS - 1)] = True
    found: np.ndarray = first[(values >> 64 - FIRST_BITS) + (1 << FIRST_BITS - 1)]
    at = np.flatnonzero(found)
    found[at] = np.isin(values[at], some)
    return found


def with_hashes(rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """Rows with the HASHED columns of these names; an earlier version wrote no `content`."""
    none = pa.chunked_array([pa.nulls(len(rows), pa.string())])
    there = {*rows.column_names}
    for name in names:
        texts = [rows[column] if column in there else none for column in HASHED[name]]
        rows = rows.append_column(name, hashes(texts))
    return rows


def with_unit(rows: pa.Table, name: str) -> pa.Table:
    """The rows of a unit with its name, a dictionary, and their places in it."""
    at = np.arange(rows.num_rows, dtype=np.int32)
    unit = pa.DictionaryArray.from_arrays(pa.array(np.zeros_like(at)), pa.array([name]))
    return rows.append_column("unit", unit).append_column("unit_row", pa.array(at))


def hashes(columns: list[pa.ChunkedArray]) -> pa.Array:
    """Of each row of text columns an int64: its texts, with a zero byte between them, by BLAKE2b
    with a digest of 8 bytes, little-endian.
    """
    texts = [pc.fill_null(column.cast(pa.string()), "") for column in columns]
    joined = pc.binary_join_element_wise(*texts, "\0") if len(texts) > 1 else texts[0]
    found = (blake2b(text, digest_size=8).digest() for text in joined.cast(pa.binary()).to_pylist())
    return pa.array(np.frombuffer(b"".join(found), "<i8"))


def by_unit(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Rows of units, one after the other, with the column `unit` -> each unit's name and rows."""
    names = rows["unit"].cast(pa.string()).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]][: len(names)]).tolist()
    for start, stop in itertools.pairwise([*starts, len(names)]):
        yield str(names[start]), rows.slice(start, stop - start)
