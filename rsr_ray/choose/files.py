"""files: chosen trajectories -> files that trainers load, one per input object.

    <out>/train-<object>.parquet, or .jsonl   the rows as they came, `messages` where they had none,
                                              and the struct `rsr_ray`
    <out>/README.md                           next to JSON Lines: the columns' types, as a card
    <out>/manifest.json                       what the choice is made of; written last

All files have the same columns and types. A row's own columns keep their values and, from Parquet,
their types. If a row holds a list of answers, the chosen one stands in the list's place.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsr_ray.choose.card import CARD, CARD_BEGINS, card
from rsr_ray.choose.columns import ADDED, WRITTEN, common_schema
from rsr_ray.choose.whole_rows import whole_rows
from rsr_ray.config.arms import ARMS
from rsr_ray.config.choose import PoolConfig
from rsr_ray.corpus.row_faults import Row
from rsr_ray.errors import RunError, UserError
from rsr_ray.files.objects import InputObject, delete, get, list_files, put
from rsr_ray.run.datasets import shared_out

if TYPE_CHECKING:
    import ray.data

MANIFEST = "manifest.json"
# of a choice, or of arms in folders of their own
OURS = re.compile(rf"manifest\.json|(({'|'.join(ARMS)})/)?train-[0-9a-f]{{16}}\.(parquet|jsonl)")
CARDS = (CARD, *(f"{arm}/{CARD}" for arm in ARMS))
WHOLE: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}  # blocks, as Arrow tables


@dataclass(frozen=True)
class WrittenFile:
    """A file of training data."""

    name: str
    rows: int
    sha256: str


def refuse_foreign(config: PoolConfig) -> None:
    """Raise UserError for an --out that holds anything.

    An earlier choice and nothing else is fine with --overwrite.
    """
    names = sorted(list_files(config.out, config.s3_endpoint))
    foreign = [name for name in names if not _is_ours(name, config)]
    if foreign:
        raise UserError(
            f"--out {config.out} contains {foreign[0]}, which rsr-ray choose did not write: use "
            "a new or empty folder"
        )
    if names and not config.overwrite:
        raise UserError(
            f"--out {config.out} contains an earlier choice: use another folder, or replace it "
            "with --overwrite"
        )


def clear(config: PoolConfig) -> None:
    """Delete an earlier choice, its manifest first."""
    names = [name for name in list_files(config.out, config.s3_endpoint) if _is_ours(name, config)]
    for name in sorted(names, key=lambda name: name != MANIFEST):
        delete(f"{config.out}/{name}", config.s3_endpoint)


def _is_ours(name: str, config: PoolConfig) -> bool:
    if name in CARDS:  # somebody else may well have written one
        return get(f"{config.out}/{name}", config.s3_endpoint).startswith(CARD_BEGINS.encode())
    return OURS.fullmatch(name) is not None


def write_files(
    chosen: "ray.data.Dataset", n_chosen: int, n_objects: int, config: PoolConfig
) -> tuple[list[WrittenFile], dict[str, str]]:
    """Write the files of CHOSEN rows, of at most n_objects sources; returns them and their columns.

    A file is written with the columns its shard has. Once all are known, those that differ are
    written again with the columns of all. The columns come with the names of their types. Raises
    UserError for a --keep that no shard has, and if two shards have types in a column that go into
    no common one.
    """
    partitions = int(np.clip(n_chosen // 64, 1, min(n_objects, 200)))
    rows = chosen.map_batches(without_summary, **WHOLE).repartition(partitions, keys=["source"])
    written = rows.map_batches(write_chosen, fn_args=(config,), **WHOLE).take_all()
    return settle_files(written, n_chosen, config)


def settle_files(
    written: list[Row], n_chosen: int, config: PoolConfig
) -> tuple[list[WrittenFile], dict[str, str]]:
    """WRITTEN rows of all files of `config.out`, as files of the same columns, and these."""
    files = {file["name"]: file for file in written}
    n_written = sum(file["rows"] for file in files.values())
    if n_written != n_chosen:
        raise RunError(
            f"--out {config.out}: only {n_written:,} of {n_chosen:,} chosen rows were written; did "
            "shards change meanwhile? Rerun the same command"
        )
    _check_keep({column for file in files.values() for column in file["columns"]}, config)
    schemas = {file["schema"] for file in files.values()}
    schema = common_schema([_schema(serialized) for serialized in sorted(schemas)])
    different = [name for name, file in files.items() if not _schema(file["schema"]).equals(schema)]
    sizes = {name: files[name]["rows"] for name in sorted(different)}
    files |= {file["name"]: file for file in _rewritten(sizes, schema, config)}
    if config.format == "jsonl":
        put(f"{config.out}/{CARD}", card(schema).encode(), config.s3_endpoint)
    listed = [
        WrittenFile(name, files[name]["rows"], files[name]["sha256"]) for name in sorted(files)
    ]
    return listed, {field.name: str(field.type) for field in schema}


def _check_keep(there: set[str], config: PoolConfig) -> None:
    """Raise UserError for a --keep that is none of the shards' columns."""
    if unknown := sorted({*config.keep} - there - {*ADDED, "none"}):
        raise UserError(
            f"--keep {unknown[0]}: no shard of the choice has this column; columns: "
            f"{', '.join(sorted(there))[:300]}"
        )


def _rewritten(sizes: dict[str, int], schema: pa.Schema, config: PoolConfig) -> list[Row]:
    """The files of these names and so many rows written again with the schema: WRITTEN rows."""
    import ray.data

    if not sizes:
        return []
    names = pa.table({"name": [*sizes], "size": [*sizes.values()]})
    tables = ray.data.from_arrow(shared_out(names))
    serialized = schema.serialize().to_pybytes()
    return tables.map_batches(rewrite, fn_args=(config, serialized), **WHOLE).take_all()


def without_summary(rows: pa.Table) -> pa.Table:
    """Ray Data UDF over CHOSEN rows: those that are rows of the choice."""
    return rows.filter(pc.is_null(rows["summary"]))


def write_chosen(rows: pa.Table, config: PoolConfig) -> Iterator[pa.Table]:
    """Ray Data UDF over CHOSEN rows, all of a source in one batch.

    Writes a file per source, and gives a WRITTEN row for each.
    """
    for source in sorted(set(rows["source"].to_pylist())):
        some = rows.filter(pc.equal(rows["source"], source))
        obj = InputObject(uri=source, version=some["version"][0].as_py(), size=0)
        yield write_file(f"train-{obj.key}.{config.format}", *whole_rows(obj, some, config), config)


def rewrite(names: pa.Table, config: PoolConfig, serialized: bytes) -> Iterator[pa.Table]:
    """Ray Data UDF over names of files, which are written again with the given schema."""
    schema = _schema(serialized)
    for name in names["name"].to_pylist():
        rows = read_file(f"{config.out}/{name}", config.s3_endpoint)
        yield write_file(name, pa.Table.from_pylist(rows, schema), [], config)


def write_file(name: str, table: pa.Table, columns: list[str], config: PoolConfig) -> pa.Table:
    """Write a file below `config.out`; its WRITTEN row. `columns` are those of its shard."""
    data = _parquet(table) if config.format == "parquet" else _json_lines(table)
    put(f"{config.out}/{name}", data, config.s3_endpoint)
    facts = {
        "name": name,
        "rows": table.num_rows,
        "sha256": hashlib.sha256(data).hexdigest(),
        "schema": table.schema.serialize().to_pybytes(),
        "columns": columns,
    }
    return pa.Table.from_pylist([facts], WRITTEN)


def _schema(serialized: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.BufferReader(serialized))


def read_file(uri: str, endpoint: str | None) -> list[Row]:
    """The rows of a file that was written."""
    data = get(uri, endpoint)
    if uri.endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data)).to_pylist()
    return [json.loads(line) for line in data.splitlines()]


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    return "".join(f"{_json(row)}\n" for row in table.to_pylist()).encode()


def _json(row: Row) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        # JSON has no NaN and no infinity, and readers stumble over Python's names for them.
        return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(some) for key, some in value.items()}
    if isinstance(value, list):
        return [_finite(some) for some in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
