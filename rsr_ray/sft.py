"""sft: chosen trajectories -> files that trainers load, one an input object, all with the same columns and types.

    <out>/train-<object>.parquet, or .jsonl   the rows as they came, `messages` where they had none, and the struct `rsr_ray`
    <out>/README.md                           beside JSON Lines the columns' types, as a data set card
    <out>/manifest.json                       what the choice is made of; written last

A row's own columns keep values and, from Parquet, types. Of a row that holds a list of answers the chosen one stands in
the list's place.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from rsr_ray.config import ChooseConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.objects import InputObject, delete, get, list_files, put, version_of
from rsr_ray.read import Unreadable, canonical, iter_rows, parquet_schema
from rsr_ray.reading import trajectories
from rsr_ray.schema import SCORES
from rsr_ray.shapes import BadRow, as_it_came, conversation

if TYPE_CHECKING:
    import ray.data

MANIFEST = "manifest.json"
OURS = re.compile(r"manifest\.json|train-[0-9a-f]{16}\.(parquet|jsonl)")
CARD = "README.md"
CARD_BEGINS = "---\n# Written by rsr-ray choose: the types of the columns, which null values alone do not tell.\n"
DTYPES = {"double": "float64", "float": "float32", "halffloat": "float16"}  # Arrow's names -> those of a card
SCORE_COLUMNS = ("trajectory_id", "prompt_id", "teacher", "sample", "by", "value", "place", "n_tokens", "mean_rank", "mean_surprisal", "rsr")
CHOSEN = pa.schema(
    [
        *[SCORES.field(name).remove_metadata() for name in ("trajectory_id", "prompt_id", "teacher", "sample", "source", "source_row")],
        pa.field("version", pa.string()),
        pa.field("by", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("place", pa.int64()),  # 1 = the best of its prompt
        *[SCORES.field(name).remove_metadata() for name in ("n_tokens", "mean_rank", "mean_surprisal", "rsr")],
        pa.field("summary", pa.string()),  # of a partition, in a row that has nothing else
    ]
)
RSR_RAY = pa.struct([CHOSEN.field(name) for name in SCORE_COLUMNS])
WRITTEN = pa.schema(
    [("name", pa.string()), ("rows", pa.int64()), ("sha256", pa.string()), ("schema", pa.binary()), ("columns", pa.list_(pa.string()))]
)


def refuse_foreign(config: ChooseConfig) -> None:
    """Raise UserError unless --out is empty, or holds an earlier choice and nothing else and --overwrite is given."""
    names = sorted(list_files(config.out, config.s3_endpoint))
    foreign = [name for name in names if not _is_ours(name, config)]
    if foreign:
        raise UserError(f"--out {config.out}: holds {foreign[0]}, which no choice wrote: name a new or empty folder")
    if names and not config.overwrite:
        raise UserError(f"--out {config.out}: holds an earlier choice: name another folder, or replace it with --overwrite")


def clear(config: ChooseConfig) -> None:
    """Delete an earlier choice, its manifest first."""
    names = [name for name in list_files(config.out, config.s3_endpoint) if _is_ours(name, config)]
    for name in sorted(names, key=lambda name: name != MANIFEST):
        delete(f"{config.out}/{name}", config.s3_endpoint)


def _is_ours(name: str, config: ChooseConfig) -> bool:
    if name == CARD:  # somebody else may well have written one
        return get(f"{config.out}/{name}", config.s3_endpoint).startswith(CARD_BEGINS.encode())
    return OURS.fullmatch(name) is not None


def write_files(chosen: "ray.data.Dataset", n_chosen: int, n_objects: int, config: ChooseConfig) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Write the files of CHOSEN rows, of at most n_objects sources; returns name, rows and sha256 of each, and the type of each column.

    A file is written with the columns its shard has. Once all are known, those that differ are written again with the
    columns of all. Raises UserError for a --keep that no shard has, and where two shards have types in a column that go
    into no common one.
    """
    import ray.data

    task: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    partitions = int(np.clip(n_chosen // 64, 1, min(n_objects, 200)))
    rows = chosen.map_batches(_without_summary, **task).repartition(partitions, keys=["source"])
    files = {file["name"]: file for file in rows.map_batches(write_chosen, fn_args=(config,), **task).take_all()}
    if (written := sum(file["rows"] for file in files.values())) != n_chosen:
        raise RunError(f"{written:,} rows were written of {n_chosen:,} that were chosen")
    there = {column for file in files.values() for column in file["columns"]}
    if unknown := sorted({*config.keep} - there - {"messages", "rsr_ray", "none"}):
        raise UserError(f"--keep {unknown[0]}: no shard that was chosen from has such a column; there: {', '.join(sorted(there))[:300]}")
    schema = common_schema({file["schema"]: name for name, file in files.items()}, config)
    different = [name for name, file in files.items() if not _schema(file["schema"]).equals(schema)]
    if different:
        again = ray.data.from_arrow([pa.table({"name": [name]}) for name in sorted(different)])
        serialized = schema.serialize().to_pybytes()
        files |= {file["name"]: file for file in again.map_batches(rewrite, fn_args=(config, serialized), **task).take_all()}
    if config.format == "jsonl":
        put(f"{config.out}/{CARD}", card(schema).encode(), config.s3_endpoint)
    listed = [{key: files[name][key] for key in ("name", "rows", "sha256")} for name in sorted(files)]
    return listed, {field.name: str(field.type) for field in schema}


def _without_summary(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_null(rows["summary"]))


def write_chosen(rows: pa.Table, config: ChooseConfig) -> Iterator[pa.Table]:
    """Ray Data UDF over CHOSEN rows, all of a source in one batch: a file a source, a WRITTEN row each."""
    for source in sorted(set(rows["source"].to_pylist())):
        some = rows.filter(pc.equal(rows["source"], source))
        obj = InputObject(uri=source, version=some["version"][0].as_py(), size=0)
        yield _write(f"train-{obj.key}.{config.format}", *whole_rows(obj, some, config), config)


def rewrite(names: pa.Table, config: ChooseConfig, serialized: bytes) -> Iterator[pa.Table]:
    """Ray Data UDF over names of files that were written: written again with the given schema."""
    schema = _schema(serialized)
    for name in names["name"].to_pylist():
        data = get(f"{config.out}/{name}", config.s3_endpoint)
        rows = pq.read_table(pa.BufferReader(data)).to_pylist() if config.format == "parquet" else list(map(json.loads, data.splitlines()))
        yield _write(name, pa.Table.from_pylist(rows, schema), [], config)


def _write(name: str, table: pa.Table, columns: list[str], config: ChooseConfig) -> pa.Table:
    data = _parquet(table) if config.format == "parquet" else _json_lines(table)
    put(f"{config.out}/{name}", data, config.s3_endpoint)
    facts = {"name": name, "rows": table.num_rows, "sha256": hashlib.sha256(data).hexdigest(), "schema": table.schema.serialize().to_pybytes()}
    return pa.Table.from_pylist([facts | {"columns": columns}], WRITTEN)


def _schema(serialized: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.BufferReader(serialized))


# --- the rows of one shard --------------------------------------------------------------------------------------------


def whole_rows(obj: InputObject, chosen: pa.Table, config: ChooseConfig) -> tuple[pa.Table, list[str]]:
    """The chosen rows of a shard with all that they came with, in the shard's order, and the names of the shard's columns.

    Raises UserError where the shard is not what was scored.
    """
    wanted = {row["source_row"]: row for row in chosen.to_pylist()}
    schema = parquet_schema(obj, config.s3_endpoint)
    columns: dict[str, list[Any]] = {}
    there = {*schema.names} if schema else set()
    changed: set[str] = set()
    n = 0
    for index, row, one, names in _samples(obj, config):
        there |= row.keys()
        if index not in wanted:
            continue
        facts = wanted.pop(index)
        found = canonical(one, obj, index, dataclasses.replace(config.reading, teacher=facts["teacher"]))
        if found["trajectory_id"] != facts["trajectory_id"]:
            now, then = found["trajectory_id"], facts["trajectory_id"]
            raise UserError(f"{obj.uri} row {index} is {now}, and was scored as {then}: give the --columns that it was scored with")
        out = {name: value for name, value in as_it_came(row, one, names).items() if _kept(name, config)}
        changed |= {name for name, value in out.items() if value is not row[name]}
        if one.get("messages") is None or not _is_plain(out.get("messages")):
            out["messages"] = _plain(one)
            changed.add("messages")
        out["rsr_ray"] = {name: facts[name] for name in SCORE_COLUMNS}
        for name in out.keys() - columns.keys():
            columns[name] = [None] * n
        for name, values in columns.items():
            values.append(out.get(name))
        n += 1
        if not wanted:
            break
    if wanted or version_of(obj.uri, config.s3_endpoint) != obj.version:
        raise UserError(f"shard {obj.uri} was replaced while the choice was made: run rsr-ray score on it as it is now, then choose again")
    first = [name for name in (schema.names if schema else sorted(columns)) if name in columns and name not in ("messages", "rsr_ray")]
    types = {name: schema.field(name).type for name in first if name not in changed} if schema else {}
    if schema and "messages" in schema.names and "messages" not in changed:
        types["messages"] = schema.field("messages").type
    types["rsr_ray"] = RSR_RAY
    table = pa.table({name: _column(columns[name], types.get(name), name, obj, config) for name in (*first, "messages", "rsr_ray")})
    return table, sorted(there)


def _samples(obj: InputObject, config: ChooseConfig) -> Iterator[tuple[int, dict[str, Any], dict[str, Any], Mapping[str, str]]]:
    """source_row, row as it came, trajectory under the names that columns are mapped to, and these columns by name."""
    index = 0
    for row in iter_rows(obj, config.s3_endpoint, config.reading.columns, only=None):
        if isinstance(row, Unreadable):
            index += 1
            continue
        for one, names in trajectories(row, config.reading):
            yield index, row, one, names
            index += 1


def _kept(name: str, config: ChooseConfig) -> bool:
    return name == "messages" or (name != "rsr_ray" and (not config.keep or name in config.keep))


def _is_plain(messages: Any) -> bool:
    """Whether messages are what every trainer reads: turns of text under the four roles, arguments of tool calls as text."""
    if not isinstance(messages, list) or not messages:
        return False
    return all(
        isinstance(turn, dict)
        and turn.get("role") in ("system", "user", "assistant", "tool")
        and isinstance(turn.get("content"), str)
        and not turn.get("tool_calls")
        for turn in messages
    )


def _plain(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a row of any shape as such messages."""
    try:
        turns = conversation(row)
    except BadRow as e:  # it was scored, so it is not what it was
        raise UserError(f"a row that was scored has no conversation now: {e.detail}; give the --columns that it was scored with") from e
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return turns


def _column(values: list[Any], kind: pa.DataType | None, name: str, obj: InputObject, config: ChooseConfig) -> pa.Array:
    if kind is not None and pa.types.is_dictionary(kind):  # shards that were written apart need not agree on it
        kind = kind.value_type
    try:
        column = pa.array(values, kind) if kind is not None else pa.array([_storable(value) for value in values])
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as e:
        raise UserError(f"{obj.uri}: column {name} does not fit a table: {' '.join(str(e).split())[:200]}. {_way_out(name)}") from e
    if config.format == "jsonl" and (odd := _not_json(column.type)):
        raise UserError(f"{obj.uri}: column {name} holds {odd}, which JSON cannot: choose --format parquet. {_way_out(name)}")
    return column


def _way_out(name: str) -> str:
    return f"Or leave {name} out: --keep names the columns to keep, --keep none keeps none"


def _storable(value: Any) -> Any:
    """A JSON value as Parquet can hold it: an object without any key becomes null."""
    if isinstance(value, dict):
        return {key: _storable(some) for key, some in value.items()} or None
    return [_storable(some) for some in value] if isinstance(value, list) else value


def _not_json(kind: pa.DataType) -> pa.DataType | None:
    """The part of a type that JSON has no values for, if any."""
    if pa.types.is_struct(kind):
        return next((odd for field in kind if (odd := _not_json(field.type))), None)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _not_json(kind.value_type)
    tests = (pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    return None if any(test(kind) for test in tests) else kind


# --- files ------------------------------------------------------------------------------------------------------------


def common_schema(examples: dict[bytes, str], config: ChooseConfig) -> pa.Schema:
    """One schema for files of these (serialized schema -> a file that has it). Raises UserError, naming the column."""
    schemas = [_schema(serialized) for serialized in sorted(examples)]
    names = [name for name in dict.fromkeys(name for schema in schemas for name in schema.names) if name not in ("messages", "rsr_ray")]
    fields = []
    for name in (*sorted(names), "messages", "rsr_ray"):
        kinds = [pa.schema([schema.field(name)]) for schema in schemas if name in schema.names]
        try:
            fields.append(pa.unify_schemas(kinds, promote_options="permissive").field(0).with_nullable(True))
        except pa.ArrowException as e:
            types = " and ".join(sorted({str(kind.field(0).type) for kind in kinds}))
            raise UserError(f"column {name} is {types[:300]} in different shards, which go into no one table. {_way_out(name)}") from e
    return pa.schema(fields)


def card(schema: pa.Schema) -> str:
    """A data set card with the columns' types, by which `datasets` loads JSON Lines whose first values are null."""
    return CARD_BEGINS + yaml.safe_dump({"dataset_info": {"features": _features(schema)}}, sort_keys=False) + "---\n"


def _features(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": _features(kind)}
    if not hasattr(kind, "value_type"):
        return {"dtype": DTYPES.get(str(kind), str(kind))}
    inner = _feature(kind.value_type)
    return {"list": inner if "list" in inner else next(iter(inner.values()))}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    return "".join(f"{_json(row)}\n" for row in table.to_pylist()).encode()


def _json(row: dict[str, Any]) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:  # JSON has no NaN and no infinity, and readers stumble over Python's names for them
        return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(some) for key, some in value.items()}
    if isinstance(value, list):
        return [_finite(some) for some in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
