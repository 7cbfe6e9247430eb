"""read: shards of a corpus -> work units of canonical rows.

A work unit is a slice of one input object: rows [start, stop), of which one that holds several answers counts as several.
Every row of the object belongs to exactly one unit, readable or not. Nothing here imports torch or transformers.
"""

import difflib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsr_ray.endings import is_complete
from rsr_ray.errors import UserError
from rsr_ray.identity import name_of, sample_of
from rsr_ray.json_rows import READ_BYTES, Row, Unreadable, json_rows
from rsr_ray.listing import TWICE, Skipped, tell_skipped
from rsr_ray.objects import InputObject, absolute, find_objects, open_filesystem, protocol_of
from rsr_ray.reading import Reading, columns_of, is_pattern, trajectories
from rsr_ray.records import warn_once
from rsr_ray.row_faults import check_json, check_size, one_line, row_boundary, rows_of
from rsr_ray.schema import READ_ROWS
from rsr_ray.shapes import COLUMNS, ID_COLUMNS, BadRow, conversation, mapped, shape_of, value_at
from rsr_ray.turns import is_scored, without_nulls
from rsr_ray.units import store_of

PARQUET = (".parquet",)
ARROW = (".arrow",)
JSON_LINES = tuple(f"{kind}{c}" for kind in (".jsonl", ".ndjson") for c in ("", ".gz", ".zst", ".bz2"))
JSON = tuple(f".json{c}" for c in ("", ".gz", ".zst", ".bz2"))
SHARDS = PARQUET + ARROW + JSON_LINES + JSON
ARROW_MAGIC = b"ARROW1"
BATCH_ROWS = 64
FILES_AT_ONCE = 8  # of a pack, which are read at the same time
SAMPLED_SHARDS, SAMPLED_ROWS = 16, 256  # in which a mapped column is looked for

KNOWN = frozenset(COLUMNS)  # what scoring reads of a row
UNREADABLE = (pa.ArrowException, OSError, EOFError, UnicodeError, ValueError, RecursionError)  # what a broken shard makes the readers raise


def list_corpus(corpus: tuple[str, ...], endpoint: str | None, store: str | None = None) -> list[InputObject]:
    """Every shard of every corpus URI, once, sorted by URI; `find_corpus` without what it skipped."""
    return find_corpus(corpus, endpoint, store)[0]


def find_corpus(corpus: tuple[str, ...], endpoint: str | None, store: str | None = None) -> tuple[list[InputObject], str]:
    """Every shard of every corpus URI, once, sorted by URI, and what is there and is not read, in a line or "".

    What a store keeps is no corpus: files of `store`, or of any other, that lie inside a corpus folder are left out, which
    is said. Raises UserError for a URI that is missing or empty, or of which a part cannot be read.
    """
    found: dict[str, InputObject] = {}
    skipped: dict[str, Skipped] = {}
    for uri in corpus:
        objects, passed_over = find_objects(uri, endpoint, SHARDS)
        skipped |= {one.path: one for one in passed_over}
        for obj in without_stores(uri, objects, store):
            real = os.path.realpath(obj.uri) if len(corpus) > 1 and protocol_of(obj.uri) == "file" else obj.uri
            if found.setdefault(real, obj).uri != obj.uri:
                skipped[obj.uri] = Skipped(obj.uri, TWICE)
    read = {obj.uri: obj for obj in found.values()}
    return [read[uri] for uri in sorted(read)], tell_skipped(one for path, one in skipped.items() if path not in read)


def without_stores(corpus: str, objects: list[InputObject], store: str | None) -> list[InputObject]:
    """The objects of a corpus URI that lie in no store. A corpus that is named below a store is meant. Raises UserError where none is left."""
    roots = {absolute(store)} if store else set()
    roots |= {root for obj in objects if (root := store_of(obj.uri))}
    inside = {root for root in roots if not absolute(corpus).startswith(f"{root}/")}
    left_out = {obj.uri: root for obj in objects if (root := store_of(obj.uri) or next((r for r in inside if obj.uri.startswith(f"{r}/")), None))}
    kept = [obj for obj in objects if obj.uri not in left_out]
    if left_out:
        where = ", ".join(sorted({*left_out.values()}))
        line = f"corpus {corpus}: {len(objects) - len(kept):,} files in it belong to the store {where}"
        if not kept:
            raise UserError(f"{line}, and there are no others: give the folder of the trajectories")
        warn_once(f"{line} and are no part of the corpus; a store outside of it keeps the two apart")
    return kept


def check_mapped(objects: list[InputObject], endpoint: str | None, columns: Mapping[str, str]) -> None:
    """Raise UserError for a mapped column that is in none of the first rows of shards all over the corpus."""
    missing = dict(columns)
    there: set[Any] = set()
    for obj in objects[:: max(1, len(objects) // SAMPLED_SHARDS)]:
        if not missing:
            return
        for row in itertools.islice(iter_rows(obj, endpoint, columns, None), SAMPLED_ROWS):
            if isinstance(row, Unreadable):
                continue
            there |= row.keys()
            missing = {name: path for name, path in missing.items() if not _is_there(row, path)}
            if not missing:
                return
    if missing and there:
        name, path = next(iter(missing.items()))
        known = sorted(map(str, there))
        near = difflib.get_close_matches(path, known, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there: {', '.join(known)[:300]}"
        raise UserError(f"--columns {name}={path}: no row looked at has such a column; {hint}")


def _is_there(row: dict[str, Any], path: str) -> bool:
    if is_pattern(path):
        return bool(columns_of([path], row))
    return path in row or value_at(row, path) is not None


def check_readable(objects: list[InputObject], endpoint: str | None, columns: Mapping[str, str]) -> str:
    """The shape of the first row of the first shard that begins with a conversation.

    Raises UserError if none does, or where a mapped column is not there.
    """
    check_mapped(objects, endpoint, columns)
    problem = ""
    for obj in objects:
        first = next(iter_rows(obj, endpoint, columns), Unreadable("the shard has no rows"))
        if isinstance(first, Unreadable):
            problem = problem or f"{obj.uri}: {first.detail}"
        elif shape := _shape_of(first, columns):
            return shape
        else:
            problem = problem or f"{obj.uri} has the columns {', '.join(map(str, first))[:200]}"
    wanted = "messages; or conversations; or prompt and response; or instruction and output; --columns maps other names"
    raise UserError(f"no shard of the corpus can be used: {problem}. A row needs {wanted}.")


def _shape_of(row: dict[str, Any], columns: Mapping[str, str]) -> str | None:
    for of_answer, _ in Reading(columns=columns).each(row):
        if shape := shape_of({name for name, value in mapped(row, of_answer).items() if value is not None}):
            return shape
    return None


# --- rows of one object -----------------------------------------------------------------------------------------------


def iter_rows(
    obj: InputObject, endpoint: str | None, columns: Mapping[str, str], only: frozenset[str] | None = KNOWN
) -> Iterator[dict[str, Any] | Unreadable]:
    """The rows of an object in order. A broken object ends with one `Unreadable(shard=True)` after its readable rows.

    Of a Parquet shard the columns `only` and those of `columns` are read, or all where `only` is None. Whether the object
    or the way to it is broken shows from a copy on this machine's disk, on which reading goes on.
    Raises OSError where the store does not give the object, so that the task is tried again.
    """
    n = 0
    try:
        for row in _rows(obj, endpoint, columns, only):
            yield row
            n += 1
    except UNREADABLE:
        with tempfile.TemporaryDirectory(prefix="rsr_ray-") as folder:
            here = _copy(obj, folder, endpoint)
            try:
                yield from itertools.islice(_rows(here, None, columns, only), n, None)
            except UNREADABLE as e:
                yield Unreadable(f"unreadable from here on: {one_line(e)}", shard=True)


def _rows(obj: InputObject, endpoint: str | None, columns: Mapping[str, str], only: frozenset[str] | None) -> Iterator[dict[str, Any] | Unreadable]:
    name = obj.uri.lower()
    if name.endswith(PARQUET):
        return _parquet_rows(obj, endpoint, columns, only)
    if name.endswith(ARROW):
        return _arrow_rows(obj, endpoint, columns, only)
    return _json_rows(obj, endpoint, columns)


def parquet_schema(obj: InputObject, endpoint: str | None) -> pa.Schema | None:
    """The columns of a Parquet or Arrow shard with their types; None for another format, whose values have JSON's."""
    name = obj.uri.lower()
    if not name.endswith(PARQUET + ARROW):
        return None
    fs, path = open_filesystem(obj.uri, endpoint)
    with fs.open_input_file(path) as file:
        return pq.read_schema(file) if name.endswith(PARQUET) else _open_arrow(file).schema


def _copy(obj: InputObject, folder: str, endpoint: str | None) -> InputObject:
    fs, path = open_filesystem(obj.uri, endpoint)
    name = os.path.join(folder, path.rpartition("/")[2])
    with fs.open_input_stream(path, compression=None) as source, open(name, "wb") as file:
        shutil.copyfileobj(source, file, READ_BYTES)
    return InputObject(uri=name, version=obj.version, size=obj.size)


def _parquet_rows(obj: InputObject, endpoint: str | None, columns: Mapping[str, str], only: frozenset[str] | None) -> Iterator[Row]:
    fs, path = open_filesystem(obj.uri, endpoint)
    with fs.open_input_file(path) as file:
        shard = pq.ParquetFile(file)
        for batch in shard.iter_batches(batch_size=BATCH_ROWS, columns=_wanted(shard.schema_arrow, columns, only)):
            yield from _batch_rows(batch)


def _arrow_rows(obj: InputObject, endpoint: str | None, columns: Mapping[str, str], only: frozenset[str] | None) -> Iterator[Row]:
    fs, path = open_filesystem(obj.uri, endpoint)
    with fs.open_input_file(path) as file:
        shard = _open_arrow(file)
        wanted = _wanted(shard.schema, columns, only)
        batches = map(shard.get_batch, range(shard.num_record_batches)) if isinstance(shard, pa.RecordBatchFileReader) else shard
        for batch in batches:
            some = batch.select(wanted)
            for start in range(0, some.num_rows, BATCH_ROWS):
                yield from _batch_rows(some.slice(start, BATCH_ROWS))


def _open_arrow(file: pa.NativeFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """An Arrow file in either of its formats; `datasets.save_to_disk` writes the streaming one."""
    magic = file.read(len(ARROW_MAGIC))
    file.seek(0)
    return pa.ipc.open_file(file) if magic == ARROW_MAGIC else pa.ipc.open_stream(file)


def _wanted(schema: pa.Schema, columns: Mapping[str, str], only: frozenset[str] | None) -> list[str]:
    """The columns that are read. Raises ValueError where one of them is there twice."""
    there = schema.names
    mapped_from = columns_of(columns.values(), there)
    wanted = [name for name in there if only is None or name in only or name in mapped_from]
    if not wanted and only == KNOWN:
        wanted = there
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise ValueError(f"the column {twice[0]!r} is there twice, and which one is meant cannot be known")
    return wanted


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    yield from (Unreadable(row.detail, reason=row.reason) if isinstance(row, BadRow) else row for row in rows_of(batch))


def _json_rows(obj: InputObject, endpoint: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    fs, path = open_filesystem(obj.uri, endpoint)
    if obj.size == 0:
        with fs.open_input_stream(path, compression=None) as stream:
            if not stream.read(1):
                yield Unreadable("the file has 0 bytes: it was never written to its end", shard=True)
                return
    known = KNOWN | {path.partition(".")[0] for path in columns.values()}
    with fs.open_input_stream(path, compression="detect") as stream:
        yield from json_rows(stream, lines_only=not obj.uri.lower().endswith(JSON), known=known)


# --- canonical rows ---------------------------------------------------------------------------------------------------


def canonical(row: dict[str, Any] | Unreadable, obj: InputObject, index: int, reading: Reading) -> dict[str, Any]:
    """One input row as a READ_ROWS value: scorable, or with reject_reason and reject_detail set."""
    out: dict[str, Any] = dict.fromkeys(field.name for field in READ_ROWS)
    out |= {"trajectory_id": _digest([obj.uri, index]), "source": obj.uri, "source_row": index}
    try:
        with row_boundary("reading the row"):
            _fill(out, row, reading, obj)
    except BadRow as e:
        out |= {"messages": None, "tools": None, "reject_reason": e.reason, "reject_detail": e.detail}
    return out


def _fill(out: dict[str, Any], row: dict[str, Any] | Unreadable, reading: Reading, obj: InputObject) -> None:
    """Set what a row says of itself, its names first: a reject has those that could be read. Raises BadRow."""
    fields = {} if isinstance(row, Unreadable) else row
    name = out["teacher"] = reading.teacher or name_of(reading.teacher_of(obj.uri), "the teacher in the path")
    if not reading.is_explicit:
        name = out["teacher"] = name_of(fields.get("teacher"), "teacher") or name
    given_id = next((found for column in ID_COLUMNS if (found := name_of(fields.get(column), column))), None)
    out["trajectory_id"] = given_id or out["trajectory_id"]
    out["prompt_id"] = name_of(fields.get("prompt_id"), "prompt_id")
    out["sample"] = sample_of(fields.get("sample"))
    if isinstance(row, Unreadable):
        raise BadRow("unreadable_shard" if row.shard else row.reason, row.detail)
    messages, tools = conversation(row), _tools(row.get("tools"))
    _check_calls(messages)
    out["content"], out["complete"] = _digest([messages, tools])[:16], is_complete(row)
    if not name:
        raise BadRow("no_teacher", "pass --teacher or --teacher-from, add a teacher column, or put the shard in a teacher=NAME/ folder")
    first_answer = next((i for i, m in enumerate(messages) if is_scored(m)), len(messages))
    prompt = messages[:first_answer]
    out["prompt_id"] = out["prompt_id"] or _digest([{**turn, "content": " ".join(turn["content"].split())} for turn in prompt])
    if not given_id:
        out["trajectory_id"] = _digest([name, prompt, messages[first_answer:], out["sample"]])
    if first_answer == len(messages):
        raise BadRow("no_assistant_turn", f"roles: {', '.join(m['role'] for m in messages) or 'none'}")
    if not any(m["content"].strip() or m.get("tool_calls") for m in messages if is_scored(m)):
        raise BadRow("empty_response", "every assistant turn is empty")
    text = json.dumps(messages)
    check_size(text, tools)
    out["messages"], out["tools"] = text, tools


def _check_calls(messages: list[dict[str, Any]]) -> None:
    """Raise BadRow where the arguments of a call are not JSON's."""
    for turn in messages:
        for call in turn.get("tool_calls", ()):
            function = call["function"]
            check_json(function["arguments"], f"the arguments of {function['name']:.60}")


def _tools(given: Any) -> str | None:
    """The functions that a row declares, as JSON."""
    try:
        tools = json.loads(given) if isinstance(given, str) else without_nulls(given)
    except (ValueError, RecursionError) as e:
        raise BadRow("tool_calls", f"the column tools is not JSON: {given!r:.100}") from e
    check_json(tools, "the column tools")
    return json.dumps(tools) if tools else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


# --- work units -------------------------------------------------------------------------------------------------------


def read_units(objects: pa.Table, endpoint: str | None, unit_rows: int, reading: Reading) -> Iterator[pa.Table]:
    """Ray Data UDF over input objects (uri, version, size, members, done): their work units, one after the other."""
    for row in objects.to_pylist():
        done = [(start, stop) for start, stop in row.pop("done")]
        files = [InputObject(**file) for file in row.pop("members")]
        yield from iter_units(InputObject(**row), endpoint, unit_rows, done, reading, files)


def _rows_of_files(files: Sequence[InputObject], endpoint: str | None, reading: Reading) -> Iterator[tuple[InputObject, int, Any]]:
    """The rows of files, each with its file and its place in it. Several files are small, and are read some ahead."""
    if len(files) == 1:
        yield from ((files[0], n, row) for n, row in enumerate(iter_trajectories(files[0], endpoint, reading)))
        return
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file, rows in zip(files, pool.map(lambda file: list(iter_trajectories(file, endpoint, reading)), files), strict=True):
            yield from ((file, n, row) for n, row in enumerate(rows))


def iter_trajectories(
    obj: InputObject, endpoint: str | None, reading: Reading, only: frozenset[str] | None = KNOWN
) -> Iterator[dict[str, Any] | Unreadable]:
    """The rows of an object under the names they are mapped to; a row that holds several answers is several."""
    for row in iter_rows(obj, endpoint, reading.columns, only):
        yield from [row] if isinstance(row, Unreadable) else _trajectories(row, reading)


def _trajectories(row: dict[str, Any], reading: Reading) -> list[dict[str, Any] | Unreadable]:
    try:
        with row_boundary("reading the row"):
            return [one for one, _ in trajectories(row, reading)]
    except BadRow as e:
        return [Unreadable(e.detail, reason=e.reason)]


def iter_units(
    obj: InputObject, endpoint: str | None, unit_rows: int, done: list[tuple[int, int]], reading: Reading, files: Sequence[InputObject] = ()
) -> Iterator[pa.Table]:
    """The work units of an object whose rows are not in `done`, each a table of one row. `files`, where given, are what it is a pack of.

    Units lie on the grid of `unit_rows`, so the same object is cut the same way every time; `done` holds the row
    ranges that have a file already. `last` marks the unit that ends the object: with it in the store, the object is
    known to be whole without reading it again.
    """
    ranges = sorted(done)
    starts = [start for start, _ in ranges]
    total = first = 0
    held: list[dict[str, Any]] = []
    for index, (file, n, row) in enumerate(_rows_of_files(files or [obj], endpoint, reading)):
        total = index + 1
        before = bisect_right(starts, index) - 1
        if before >= 0 and index < ranges[before][1]:
            continue
        if held and (index % unit_rows == 0 or index != first + len(held)):
            yield _unit(obj, first, held, last=False)
            held = []
        first = first if held else index
        held.append(canonical(row, file, n, reading))
    at_end = bool(held) and first + len(held) == total
    if held:
        yield _unit(obj, first, held, last=at_end)
    if not at_end:  # an empty object, or one whose last rows were done without it being known that they are the last
        yield _unit(obj, total, [], last=True)


def _unit(obj: InputObject, start: int, rows: list[dict[str, Any]], *, last: bool) -> pa.Table:
    return pa.table(
        {
            "key": [obj.key],
            "version": [obj.version],
            "start": [start],
            "stop": [start + len(rows)],
            "last": [last],
            "rows": pa.array([rows], pa.list_(READ_ROWS)),
        }
    )
