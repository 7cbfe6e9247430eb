"""The store: plain Parquet under one folder or bucket prefix.

    scores/student=<name>/<fingerprint>/<digit>/<unit>.parquet   one row a trajectory, rejects included; one file a work unit
    tokens/student=<name>/<fingerprint>/<digit>/<unit>.parquet   its tokens, where --token-scores asked for them
    teachers/student=<name>.parquet                              one row a teacher
    runs/<run_id>.json                                           settings, versions, the row equation, tokens, seconds
    nightly/<night>.json, nightly/lease/                         what changed in a night; who is at work on the store
    report/                                                      the page, and the same as CSV, JSON and Markdown
    races/<race id>/                                             a store of its own: what a race had scored, its shards, its answer

A unit's file name is a function of the input object and the row range: a unit that is done twice overwrites itself, and
a unit whose file is there is done. A file is there whole or not at all. <digit> is the name's first: sixteen folders are
listed sixteen times as fast as one.
"""

import datetime
import hashlib
import json
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsr_ray.errors import UserError
from rsr_ray.objects import InputObject, absolute, delete, get, list_files, put
from rsr_ray.schema import SCORES, TEACHERS

if TYPE_CHECKING:
    import ray.data

UNIT_NAME = re.compile(r"(?P<key>[0-9a-f]{16})-(?P<version>[0-9a-f]{12})-(?P<start>\d{10})-(?P<stop>\d{10})(?P<last>-last)?\.parquet")
UNITS_KEY = b"made_of_units"  # in the teachers file's metadata: hash of the names of the units it was made of
R_MAX_KEY = b"r_max"  # in the metadata of tokens: the clip of the scores beside them
READ_UNITS = 64  # units a task of the reduce reads
STUDENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class Done:
    """What the store holds of one version of one input object."""

    ranges: list[tuple[int, int]] = field(default_factory=list)  # of rows, disjoint
    n_rows: int | None = None  # rows of the whole object, once the unit that ends it is there

    @property
    def n_done(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    @property
    def whole(self) -> bool:
        return self.n_rows is not None and self.n_done == self.n_rows


class Store:
    """One student's part of a store. Small and picklable: it travels to the tasks that write."""

    def __init__(self, uri: str, student_name: str, endpoint: str | None):
        if not STUDENT_NAME.fullmatch(student_name):
            raise UserError(f"--student-name {student_name!r}: use letters, digits, '.', '_' and '-'; it becomes a folder's name")
        self.uri, self.student_name, self.endpoint = absolute(uri), student_name, endpoint

    @property
    def scores_uri(self) -> str:
        return f"{self.uri}/scores/student={self.student_name}"

    @property
    def teachers_uri(self) -> str:
        return f"{self.uri}/teachers/student={self.student_name}.parquet"

    def check_writable(self, run_id: str) -> None:
        """Write and delete one small object. Raises UserError."""
        probe = f"{self.uri}/runs/.{run_id}.probe"
        try:
            put(probe, b"rsr_ray", self.endpoint)
            delete(probe, self.endpoint)
        except OSError as e:
            raise UserError(f"store {self.uri}: cannot be written: {e}") from e

    # --- scores -------------------------------------------------------------------------------------------------------

    def units(self) -> dict[str, list[str]]:
        """File names of this student's units by fingerprint, sorted. Opens no file."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in sorted(list_files(self.scores_uri, self.endpoint)):
            fingerprint, _, name = path.partition("/")
            name = name.rpartition("/")[2]
            if UNIT_NAME.fullmatch(name):
                found[fingerprint].append(name)
        return dict(found)

    def units_until(self, fingerprint: str, moment: datetime.datetime) -> list[str]:
        """File names of the units of a fingerprint that were last written no later than that, by the store's clock, sorted."""
        files = list_files(f"{self.scores_uri}/{fingerprint}", self.endpoint)
        written = {path.rpartition("/")[2]: when for path, when in files.items()}
        return sorted(name for name, when in written.items() if UNIT_NAME.fullmatch(name) and when is not None and when <= moment)

    def units_under(self, fingerprint: str, *, new_generation: bool) -> list[str]:
        """File names of the units under a fingerprint. Raises UserError where there are scores under others, unless that is meant."""
        units = self.units()
        others = [other for other in units if other != fingerprint]
        if others and not new_generation:
            raise UserError(
                f"store {self.uri} holds scores of student {self.student_name} under other settings or weights "
                f"(fingerprint {', '.join(others)}; this run: {fingerprint}), and the two cannot be compared. "
                "Give the old settings, another --student-name or --store, or --new-generation to score all again."
            )
        return units.get(fingerprint, [])

    def generation(self) -> str:
        """The fingerprint of the scores that the teachers table was made of. Raises UserError where there are none."""
        fingerprints = sorted({*self.read_teachers()["fingerprint"].to_pylist()} or self.units())
        if len(fingerprints) != 1:
            raise UserError(f"store {self.uri}: scores of {len(fingerprints)} fingerprints of student {self.student_name}: run rsr-ray score again")
        return fingerprints[0]

    def write_scores(self, fingerprint: str, name: str, scores: pa.Table) -> None:
        """Write the SCORES rows of a unit."""
        put(self.unit_uri(fingerprint, name), _parquet(scores.cast(SCORES)), self.endpoint)

    def write_unit(self, unit: pa.Table, fingerprint: str) -> pa.Table:
        """Units of SCORES rows in, their file written, one line of bookkeeping out."""
        (unit_facts,) = unit.drop_columns(["rows"]).to_pylist()
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scores = pa.Table.from_batches([rows]).cast(SCORES)
        name = unit_name(unit_facts)
        self.write_scores(fingerprint, name, scores)
        rejects = _rejects_of(scores)
        return pa.table(
            {
                **{key: [value] for key, value in unit_facts.items()},
                "file": [name],
                "n_rows": [scores.num_rows],
                "n_scored": [scores["reject_reason"].null_count],
                "n_tokens": pa.array([pc.sum(scores["n_tokens"]).as_py() or 0], pa.int64()),
                "n_prompt_tokens": pa.array([pc.sum(scores["n_prompt_tokens"]).as_py() or 0], pa.int64()),
                "rejected": [json.dumps(rejects)],
            }
        )

    def write_tokens(self, unit: pa.Table, tokens: pa.Table, fingerprint: str, r_max: int) -> None:
        """Write the TOKENS rows of a unit."""
        (unit_facts,) = unit.drop_columns(["rows"]).to_pylist()
        # Mantissas of floats compress badly as they stand, and well with the bytes of one place side by side.
        floats = [name for name in ("surprisal", "entropy", "square") if tokens.num_rows]
        split = {"use_byte_stream_split": [f"{name}.list.element" for name in floats], "use_dictionary": ["text.list.element", "teacher", "source"]}
        data = _parquet(tokens.replace_schema_metadata({R_MAX_KEY: str(r_max)}), **split)
        put(self.tokens_uri(fingerprint, unit_name(unit_facts)), data, self.endpoint)

    def read_unit(self, fingerprint: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Columns, or all, of the SCORES rows of a unit."""
        return _read(self.unit_uri(fingerprint, name), self.endpoint, columns).replace_schema_metadata()

    def read_tokens(self, fingerprint: str, name: str) -> tuple[pa.Table, int]:
        """The TOKENS rows of a unit, and the r_max of its scores. Raises FileNotFoundError where --token-scores did not ask for them."""
        tokens = _read(self.tokens_uri(fingerprint, name), self.endpoint)
        return tokens, int(tokens.schema.metadata[R_MAX_KEY])

    def unit_uri(self, fingerprint: str, name: str) -> str:
        return f"{self.scores_uri}/{fingerprint}/{name[0]}/{name}"

    def tokens_uri(self, fingerprint: str, name: str) -> str:
        return f"{self.uri}/tokens/student={self.student_name}/{fingerprint}/{name[0]}/{name}"

    def drop(self, fingerprint: str, names: list[str]) -> None:
        """Delete units."""
        for name in names:
            delete(self.unit_uri(fingerprint, name), self.endpoint)
            delete(self.tokens_uri(fingerprint, name), self.endpoint)

    def find_rejects(self, reason: str | None) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Rejected rows, of one reason or any, by the (fingerprint, name) of the unit that holds them. Raises UserError."""
        units = [(fingerprint, name) for fingerprint, names in self.units().items() for name in names]
        if not units:
            raise UserError(f"store {self.uri}: no scores of student {self.student_name}")
        columns = ["teacher", "trajectory_id", "source", "source_row", "reject_reason", "reject_detail"]
        wanted = pc.field("reject_reason") == reason if reason else pc.field("reject_reason").is_valid()

        def read(unit: tuple[str, str]) -> list[dict[str, Any]]:
            return self.read_unit(*unit, columns).filter(wanted).to_pylist()

        with ThreadPoolExecutor(16) as pool:
            return {unit: rows for unit, rows in zip(units, pool.map(read, units), strict=True) if rows}

    def count_rejects(self, fingerprint: str) -> dict[str, dict[str, Any]]:
        """Rejected rows by reason, rows without a teacher too: `n`, how many, and `example`, what happened to one of them."""
        names = self.units().get(fingerprint, [])
        _, repeated = settle_units(names)
        columns = ["trajectory_id", "source", "source_row", "reject_reason", "reject_detail"]

        found: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(8) as pool:
            for of_unit in pool.map(lambda name: _rejects_of(self.read_unit(fingerprint, name, columns)), sorted(set(names) - set(repeated))):
                for reason, rejects in of_unit.items():
                    found.setdefault(reason, rejects | {"n": 0})["n"] += rejects["n"]
        return found

    def read_scores(self, fingerprint: str, names: list[str], columns: list[str]) -> "ray.data.Dataset":
        """Columns of the SCORES rows of units, as a Ray Data dataset.

        Ray's own reader is not used: an Arrow S3 filesystem that is sent to another process is back at three attempts a request.
        """
        import ray

        paths = [pa.table({"name": names[i : i + READ_UNITS]}) for i in range(0, len(names), READ_UNITS)]
        task: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "fn_args": (fingerprint, columns)}
        return ray.data.from_arrow(paths).map_batches(self.read_units, **task)  # type: ignore[arg-type]

    def read_units(self, names: pa.Table, fingerprint: str, columns: list[str]) -> pa.Table:
        """Ray Data UDF over names of units: their rows."""

        with ThreadPoolExecutor(8) as pool:
            return pa.concat_tables(pool.map(lambda name: self.read_unit(fingerprint, name, columns), names["name"].to_pylist()))

    # --- what is made of them -----------------------------------------------------------------------------------------

    def write_teachers(self, teachers: pa.Table, names: list[str]) -> None:
        """Write the TEACHERS table made of the units `names`."""
        put(self.teachers_uri, _parquet(teachers.cast(TEACHERS).replace_schema_metadata({UNITS_KEY: _digest(names)})), self.endpoint)

    def current_teachers(self, names: list[str]) -> pa.Table | None:
        """The stored TEACHERS table if it was made of exactly these units, else None: there is nothing to reduce."""
        try:
            teachers = self.read_teachers()
        except UserError:
            return None
        made_of = (teachers.schema.metadata or {}).get(UNITS_KEY)
        return teachers if made_of == _digest(names) and teachers.schema.equals(TEACHERS) else None

    def read_teachers(self) -> pa.Table:
        """The TEACHERS table. Raises UserError where the student has none."""
        try:
            return _read(self.teachers_uri, self.endpoint)
        except (FileNotFoundError, NotADirectoryError) as e:
            known = ", ".join(self.students(self.uri, self.endpoint)) or "none yet: run rsr-ray score"
            raise UserError(f"store {self.uri}: no teachers of student {self.student_name}; students there: {known}") from e

    @staticmethod
    def students(uri: str, endpoint: str | None) -> list[str]:
        """Names of the students that a store has a teachers table of, sorted."""
        prefix, suffix = "student=", ".parquet"
        names = [n for n in list_files(f"{absolute(uri)}/teachers", endpoint) if n.startswith(prefix) and n.endswith(suffix)]
        return sorted(n.removeprefix(prefix).removesuffix(suffix) for n in names)

    def write_run(self, run: dict[str, Any]) -> None:
        put(f"{self.uri}/runs/{run['run_id']}.json", json.dumps(run, indent=1).encode(), self.endpoint)

    def find_run(self, fingerprint: str) -> dict[str, Any] | None:
        """The record of the student's last run under a fingerprint; None where the store has none."""
        for name in sorted((name for name in list_files(f"{self.uri}/runs", self.endpoint) if name.endswith(".json")), reverse=True):
            run = json.loads(get(f"{self.uri}/runs/{name}", self.endpoint))
            if run["fingerprint"] == fingerprint and run["config"]["student_name"] == self.student_name:
                return run
        return None


def _read(uri: str, endpoint: str | None, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(pa.BufferReader(get(uri, endpoint)), columns=columns)


def _rejects_of(scores: pa.Table) -> dict[str, dict[str, Any]]:
    """Rejected rows by reason: `n` and `example`."""
    rejects: dict[str, dict[str, Any]] = {}
    for row in scores.filter(pc.is_valid(scores["reject_reason"])).to_pylist():
        example = f"{row['trajectory_id']} ({row['source']} row {row['source_row']}): {row['reject_detail']}"
        rejects.setdefault(row["reject_reason"], {"n": 0, "example": example})["n"] += 1
    return rejects


def _digest(names: list[str]) -> bytes:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest().encode()


def unit_name(unit: dict[str, Any]) -> str:
    last = "-last" if unit["last"] else ""
    return f"{unit['key']}-{unit['version']}-{unit['start']:010d}-{unit['stop']:010d}{last}.parquet"


def settle_units(names: list[str]) -> tuple[dict[tuple[str, str], Done], list[str]]:
    """What units hold, by (key, version) of the input object, and the names of those that repeat rows of others.

    Runs that cut units of different sizes at the same time can leave the same row in two of them. Of units that overlap,
    the one that starts first stays, the longer before the shorter; rows that only the others hold are then missing.
    """
    found: dict[tuple[str, str], Done] = defaultdict(Done)
    repeated = []
    units = [unit for name in names if (unit := UNIT_NAME.fullmatch(name))]
    for unit in sorted(units, key=lambda u: (u["key"], u["version"], u["start"], -int(u["stop"]))):
        done = found[unit["key"], unit["version"]]
        start, stop = int(unit["start"]), int(unit["stop"])
        if start < (done.ranges[-1][1] if done.ranges else 0):
            repeated.append(unit[0])
            continue
        done.ranges.append((start, stop))
        if unit["last"]:
            done.n_rows = stop
    return dict(found), repeated


def outdated_units(names: list[str], objects: list[InputObject]) -> dict[str, InputObject]:
    """Of units of objects that are there in another version, the object as it is now."""
    now = {obj.key: obj for obj in objects}
    return {name: now[name[:16]] for name in names if name[:16] in now and name[17:29] != now[name[:16]].version}


def stale_units(names: list[str], objects: list[InputObject]) -> list[str]:
    """Names of the units of earlier versions of objects whose present version is scored whole."""
    outdated = outdated_units(names, objects)
    keys = {obj.key for obj in outdated.values()}
    done, _ = settle_units([name for name in names if name[:16] in keys])
    return [name for name, obj in outdated.items() if (state := done.get((obj.key, obj.version))) and state.whole]


def _parquet(table: pa.Table, **how: Any) -> pa.Buffer:
    """The file's bytes in memory: what is then written is all there or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", **how)
    return sink.getvalue()
