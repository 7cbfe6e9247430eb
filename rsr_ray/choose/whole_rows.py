"""whole_rows: the chosen rows of one shard with all that they came with, and `messages`."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from rsr_ray.choose.columns import ADDED, RSR_RAY, SCORE_COLUMNS, way_out
from rsr_ray.config.choose import PoolConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.images import in_parts, is_image_part, references_of
from rsr_ray.corpus.reading import trajectories
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import is_row_each, iter_rows, parquet_schema, rows_at
from rsr_ray.corpus.shapes import as_it_came, conversation
from rsr_ray.errors import BadRow, UserError
from rsr_ray.files.objects import InputObject, version_of

JSON_TYPES = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
)


class Sample(NamedTuple):
    """A trajectory of a shard."""

    source_row: int
    row: Row  # as it came
    one: Row  # under the names that columns are mapped to
    names: Mapping[str, str]  # name -> the column that is mapped to it


def whole_rows(
    obj: InputObject, chosen: pa.Table, config: PoolConfig
) -> tuple[pa.Table, list[str]]:
    """The shard's rows that CHOSEN rows name, in its order, and the names of all its columns.

    Raises UserError if the shard is not what was scored.
    """
    schema = parquet_schema(obj, config.s3_endpoint)
    there = {*schema.names} if schema else set()
    wanted = {row["source_row"]: row for row in chosen.to_pylist()}
    rows: list[Row] = []
    changed: set[str] = set()  # columns with a value that is not the shard's
    for sample in _samples(obj, schema, [*wanted], config):
        there |= sample.row.keys()
        if sample.source_row not in wanted:
            continue
        facts = wanted.pop(sample.source_row)
        _check_identity(sample, facts, obj, config)
        row, changed_here = _whole_row(sample, config)
        rows.append({**row, "rsr_ray": {name: facts[name] for name in SCORE_COLUMNS}})
        changed |= changed_here
        if not wanted:
            break
    if wanted or version_of(obj.uri, config.s3_endpoint) != obj.version:
        raise UserError(
            f"shard {obj.uri} was replaced while the choice was made: score it again with "
            "rsr-ray score, then choose again"
        )
    changed |= _all_in_parts(rows)
    names = {name for row in rows for name in row} - {*ADDED}
    in_order = [name for name in schema.names if name in names] if schema else sorted(names)
    types = {f.name: f.type for f in schema or () if f.name not in changed}
    types["rsr_ray"] = RSR_RAY
    columns = {
        name: _column([row.get(name) for row in rows], types.get(name), name, obj, config)
        for name in (*in_order, *ADDED)
    }
    return pa.table(columns), sorted(there)


def _samples(
    obj: InputObject, schema: pa.Schema | None, wanted: list[int], config: PoolConfig
) -> Iterator[Sample]:
    """The shard's trajectories; of one whose columns say where each is, those wanted alone."""
    if is_row_each(obj, schema, config.reading):
        places = sorted(wanted)
        for index, row in zip(places, rows_at(obj, config.s3_endpoint, places), strict=False):
            if not isinstance(row, Unreadable):
                for one, names in trajectories(row, config.reading):
                    yield Sample(index, row, one, names)
        return
    index = 0
    for row in iter_rows(obj, config.s3_endpoint, config.reading.columns, only=None):
        if isinstance(row, Unreadable):
            index += 1
            continue
        for one, names in trajectories(row, config.reading):
            yield Sample(index, row, one, names)
            index += 1


def _check_identity(sample: Sample, facts: Row, obj: InputObject, config: PoolConfig) -> None:
    """Raise UserError if the trajectory is not the one that was scored."""
    reading = dataclasses.replace(config.reading, teacher=facts["teacher"])
    read = canonical(sample.one, obj, sample.source_row, reading, config.s3_endpoint)
    now, then = read["trajectory_id"], facts["trajectory_id"]
    if now != then and read["reject_reason"] == "media":
        raise UserError(
            f"{obj.uri} row {sample.source_row}: {read['reject_detail']}; pass the --media-root it "
            "was scored with"
        )
    if now != then:
        raise UserError(
            f"{obj.uri} row {sample.source_row} now reads as {now}, but was scored as {then}: "
            "pass the --columns it was scored with"
        )


def _whole_row(sample: Sample, config: PoolConfig) -> tuple[Row, set[str]]:
    """The columns to keep, with `messages`, and which of them do not hold the row's own value."""
    out = {
        name: value
        for name, value in as_it_came(sample.row, sample.one, sample.names).items()
        if _kept(name, config)
    }
    changed = {name for name, value in out.items() if value is not sample.row[name]}
    if sample.one.get("messages") is None or not _is_plain(out.get("messages")):
        out["messages"] = _plain(sample.one)
        changed.add("messages")
    return out, changed


def _kept(name: str, config: PoolConfig) -> bool:
    return name == "messages" or (name != "rsr_ray" and (not config.keep or name in config.keep))


def _is_plain(messages: Any) -> bool:
    """Whether every trainer reads the messages.

    That is, turns of text, or of text and images, under the four roles, with the arguments of tool
    calls as text.
    """
    if not isinstance(messages, list) or not messages:
        return False
    return all(
        isinstance(turn, dict)
        and turn.get("role") in ("system", "user", "assistant", "tool")
        and (isinstance(turn.get("content"), str) or _has_images(turn))
        and not turn.get("tool_calls")
        for turn in messages
    )


def _has_images(turn: Row) -> bool:
    """Whether the content is a list of text and images, with at least one of these."""
    parts = turn.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return False
    others = [part for part in parts if not is_image_part(part)]
    return len(others) < len(parts) and all(part.get("type") == "text" for part in others)


def _plain(row: Row) -> list[Row]:
    """The conversation of a row of any shape as such messages."""
    try:
        turns = conversation(row)
    except BadRow as e:  # it was scored, so it is not what it was
        raise UserError(
            f"a scored row now has no readable conversation: {e.detail}; pass the --columns it "
            "was scored with"
        ) from e
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    given = references_of(row)
    return [_with_images(turn, in_column=bool(given)) for turn in turns]


def _with_images(turn: Row, *, in_column: bool) -> Row:
    """A turn with its images as parts: those of a column are places, as trainers have it."""
    if not turn.get("images"):
        return turn
    parts = [
        {"type": "image"} if in_column else {"type": "image", "image": image}
        for image in turn["images"]
    ]
    return in_parts(turn, parts)


def _all_in_parts(rows: list[Row]) -> set[str]:
    """Give all turns lists of parts if some have one, as a column has one type; what changed."""
    turns = [turn for row in rows for turn in row.get("messages") or ()]
    if not any(isinstance(turn.get("content"), list) for turn in turns):
        return set()
    for row in rows:
        row["messages"] = [
            in_parts(turn, ()) if isinstance(turn.get("content"), str) else turn
            for turn in row["messages"]
        ]
    return {"messages"}


def _column(
    values: list[Any], kind: pa.DataType | None, name: str, obj: InputObject, config: PoolConfig
) -> pa.Array:
    """The column, of the type given if any. Raises UserError for values that fit no column."""
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type  # shards that were written apart need not agree on it
    try:
        column = pa.array(values if kind is not None else list(map(_storable, values)), kind)
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as e:
        why = " ".join(str(e).split())[:200]
        raise UserError(
            f"{obj.uri}: column {name} cannot be stored in a table: {why}. {way_out(name)}"
        ) from e
    if config.format == "jsonl" and (odd := _not_json(column.type)):
        raise UserError(
            f"{obj.uri}: column {name} contains {odd}, which JSON cannot represent: use --format "
            f"parquet. {way_out(name)}"
        )
    return column


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
    return None if any(is_type(kind) for is_type in JSON_TYPES) else kind
