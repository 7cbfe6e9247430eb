"""The files of a student's units, scores and tokens: listed, written, read, deleted."""

import datetime
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.errors import StoreError, UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import delete, get, list_files, list_versions, put
from rsr_ray.schema import SCORES, SINCE_VERSION_3, TOKENS
from rsr_ray.store import seal
from rsr_ray.store.beside import KEY, PARTS, Beside
from rsr_ray.store.records import broken
from rsr_ray.store.rejects import Reject, RejectedRow, add_reject, rejects_of
from rsr_ray.store.units import (
    UNIT_NAME,
    Listing,
    settle_units,
    unit_at,
    unit_name,
)

if TYPE_CHECKING:
    import ray.data

# In the metadata of tokens: the clip of the scores beside them; how far these are from their sums.
R_MAX_KEY, OFF_KEY = "r_max", "off"
READ_UNITS = 64  # units a task of the reduce reads
STUDENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class TokenFacts(NamedTuple):
    """What a file of token scores says of itself."""

    r_max: int  # of the unit's scores
    off: float  # how far their sums are from the scores, relatively: they were added later


class Scores:
    """The units of one student in a store."""

    def __init__(self, uri: str, student_name: str, endpoint: str | None = None):
        if not STUDENT_NAME.fullmatch(student_name):
            raise UserError(
                f"--student-name {student_name!r}: use letters, digits, '.', '_' and '-'; it is "
                "used as a folder name"
            )
        self.uri, self.student_name, self.endpoint = absolute(uri), student_name, endpoint

    @property
    def scores_uri(self) -> str:
        return f"{self.uri}/scores/student={self.student_name}"

    def listing(self) -> Listing:
        """The student's units, and what else lies among them. Opens no file."""
        return Listing.of(list_versions(self.scores_uri, self.endpoint))

    def units(self) -> dict[str, list[str]]:
        """File names of this student's units by fingerprint, sorted. Opens no file."""
        return {fingerprint: list(units) for fingerprint, units in self.listing().units.items()}

    def counted(self, fingerprint: str) -> dict[str, str]:
        """The units of a fingerprint that count, none repeating rows, with file versions."""
        units = Listing.of(
            {
                f"{fingerprint}/{path}": v
                for path, v in list_versions(
                    f"{self.scores_uri}/{fingerprint}", self.endpoint
                ).items()
            }
        )
        found = units.units.get(fingerprint, {})
        _, repeated = settle_units(list(found))
        return {name: version for name, version in found.items() if name not in {*repeated}}

    def units_until(self, fingerprint: str, moment: datetime.datetime) -> list[str]:
        """Units of a fingerprint last written no later than that, by the store's clock, sorted."""
        files = list_files(f"{self.scores_uri}/{fingerprint}", self.endpoint)
        written = {
            at[1]: when for path, when in files.items() if (at := unit_at(f"{fingerprint}/{path}"))
        }
        return sorted(name for name, when in written.items() if when is not None and when <= moment)

    def write_scores(
        self, fingerprint: str, name: str, scores: pa.Table, mark: str | None = None
    ) -> None:
        """Write the SCORES rows of a unit; `mark` says what it has beside them, if it says it."""
        place = self._unit_place("scores", fingerprint, name)
        facts = {KEY: mark} if mark else {}
        data = seal.write_parquet(scores.cast(SCORES), place, facts)
        put(f"{self.uri}/{place}", data, self.endpoint)

    def write_unit(
        self, unit: pa.Table, fingerprint: str, beside: Beside | None = None
    ) -> pa.Table:
        """Units of SCORES rows in, their file written, one line of bookkeeping out.

        `beside` is what they have beside their scores.
        """
        (unit_facts,) = unit.drop_columns(["rows"]).to_pylist()
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scores = pa.Table.from_batches([rows]).cast(SCORES)
        name = unit_name(unit_facts)
        self.write_scores(fingerprint, name, scores, beside.mark if beside is not None else None)
        rejects = {reason: asdict(reject) for reason, reject in rejects_of(scores).items()}
        return pa.table(
            {
                **{key: [value] for key, value in unit_facts.items()},
                "file": [name],
                "n_rows": [scores.num_rows],
                "n_scored": [scores["reject_reason"].null_count],
                "n_tokens": pa.array([pc.sum(scores["n_tokens"]).as_py() or 0], pa.int64()),
                "n_prompt_tokens": pa.array(
                    [pc.sum(scores["n_prompt_tokens"]).as_py() or 0], pa.int64()
                ),
                "rejected": [json.dumps(rejects)],
            }
        )

    def write_tokens(
        self, fingerprint: str, name: str, tokens: pa.Table, r_max: int, off: float = 0.0
    ) -> None:
        """Write the TOKENS rows of a unit.

        `off` is how far their sums are from those of the scores, relatively.
        """
        # Mantissas of floats compress badly as they stand, and well with the bytes of one place
        # side by side.
        floats = ["surprisal", "entropy", "square"] if tokens.num_rows else []
        split = {
            "use_byte_stream_split": [f"{name}.list.element" for name in floats],
            "use_dictionary": ["text.list.element", "teacher", "source"],
        }
        place = self._unit_place("tokens", fingerprint, name)
        facts = {R_MAX_KEY: str(r_max)} | ({OFF_KEY: repr(off)} if off else {})
        data = seal.write_parquet(tokens, place, facts, **split)
        put(f"{self.uri}/{place}", data, self.endpoint)

    def read_unit(self, fingerprint: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Columns, or all, of the SCORES rows of a unit.

        A column `segment/name` has a sum of one segment. What an earlier version did not write and
        can be done without is null. Raises StoreError where the file is not what was written,
        UserError where an earlier version did not write a column.
        """
        wanted = SCORES.names if columns is None else columns
        stored = list(dict.fromkeys("segments" if "/" in name else name for name in wanted))
        opened = self._open(self._unit_place("scores", fingerprint, name), stored, SCORES)
        rows = opened.table.replace_schema_metadata()
        for missing in [column for column in stored if column not in rows.column_names]:
            if missing not in SINCE_VERSION_3:
                raise UserError(
                    f"store {self.uri}: its scores have no column {missing}, because an earlier "
                    "version wrote them; score again"
                )
            rows = rows.append_column(
                SCORES.field(missing).remove_metadata(),
                pa.nulls(rows.num_rows, SCORES.field(missing).type),
            )
        for nested in (column for column in wanted if "/" in column):
            segment, of_it = nested.rsplit("/", 1)
            kept = rows["segments"]
            if not _has_segment(opened.facts.get(KEY.encode()), segment):
                kept = pa.chunked_array([pa.nulls(rows.num_rows, kept.type)])
            rows = rows.append_column(nested, _of_segment(kept, segment, of_it))
        return rows.select(wanted)

    def read_mark(self, fingerprint: str, name: str) -> str | None:
        """What a unit's file says of what it has beside its scores; None: nothing."""
        opened = self._open(self._unit_place("scores", fingerprint, name), [], SCORES)
        return opened.facts.get(KEY.encode(), b"").decode() or None

    def token_units(self, fingerprint: str) -> set[str]:
        """Names of the units that have token scores. Opens no file."""
        folder = f"tokens/student={self.student_name}"
        files = list_versions(f"{self.uri}/{folder}/{fingerprint}", self.endpoint)
        found = Listing.of({f"{fingerprint}/{path}": v for path, v in files.items()})
        return {*found.units.get(fingerprint, ())}

    def read_tokens(self, fingerprint: str, name: str) -> tuple[pa.Table, TokenFacts]:
        """The TOKENS rows of a unit, and what goes with them.

        Raises FileNotFoundError where --token-scores did not ask for them, StoreError where they
        are not what was written.
        """
        place = self._unit_place("tokens", fingerprint, name)
        opened = self._open(place, None, TOKENS)
        r_max = opened.facts.get(R_MAX_KEY.encode(), b"")
        if not r_max.isdigit() or len(opened.table.schema) < len(TOKENS):
            raise broken(self.uri, place, "not the token scores of a unit")
        off = float(opened.facts.get(OFF_KEY.encode(), b"0"))
        return opened.table, TokenFacts(int(r_max), off)

    def _open(self, place: str, columns: list[str] | None, schema: pa.Schema) -> seal.Opened:
        """Every Parquet file of the store is opened here. Raises FileNotFoundError, StoreError."""
        try:
            return seal.read_parquet(
                get(f"{self.uri}/{place}", self.endpoint), place, columns, schema
            )
        except seal.BrokenError as e:
            # Ray's text of a chain of errors begins with the first.
            raise broken(self.uri, place, e) from None

    def find_broken(self, fingerprint: str, names: list[str], *, tokens: bool) -> dict[str, str]:
        """Those of these units that are not what was written, or whose tokens are not.

        Each with the line that says so. Reads all of them.
        """

        def problem(name: str) -> str | None:
            try:
                self.read_unit(fingerprint, name, [])
                if tokens:
                    self.read_tokens(fingerprint, name)
            except StoreError as e:
                return str(e)
            except FileNotFoundError:  # another run has tidied it away
                return None
            return None

        with ThreadPoolExecutor(16) as pool:
            return {
                name: line
                for name, line in zip(names, pool.map(problem, names), strict=True)
                if line
            }

    def _unit_place(self, kind: str, fingerprint: str, name: str) -> str:
        return f"{kind}/student={self.student_name}/{fingerprint}/{name[0]}/{name}"

    def unit_uri(self, fingerprint: str, name: str) -> str:
        return f"{self.uri}/{self._unit_place('scores', fingerprint, name)}"

    def tokens_uri(self, fingerprint: str, name: str) -> str:
        return f"{self.uri}/{self._unit_place('tokens', fingerprint, name)}"

    def drop(self, fingerprint: str, names: list[str]) -> None:
        """Delete units, and their tokens."""
        for name in names:
            assert UNIT_NAME.fullmatch(name)
            delete(self.unit_uri(fingerprint, name), self.endpoint)
            delete(self.tokens_uri(fingerprint, name), self.endpoint)

    def find_rejects(self, reason: str | None) -> dict[tuple[str, str], list[RejectedRow]]:
        """Rejected rows, of one reason or any, by (fingerprint, name) of their unit.

        Raises UserError.
        """
        units = [
            (fingerprint, name) for fingerprint, names in self.units().items() for name in names
        ]
        if not units:
            raise UserError(f"store {self.uri}: no scores of student {self.student_name}")
        columns = [column.name for column in fields(RejectedRow)]
        wanted = (
            pc.field("reject_reason") == reason if reason else pc.field("reject_reason").is_valid()
        )

        def read(unit: tuple[str, str]) -> list[RejectedRow]:
            found = self.read_unit(*unit, columns).filter(wanted)
            return [RejectedRow(**row) for row in found.to_pylist()]

        with ThreadPoolExecutor(16) as pool:
            return {
                unit: rows for unit, rows in zip(units, pool.map(read, units), strict=True) if rows
            }

    def count_rejects(self, fingerprint: str) -> dict[str, Reject]:
        """Rejected rows by reason; rows without a teacher count too."""
        names = self.units().get(fingerprint, [])
        _, repeated = settle_units(names)
        columns = ["trajectory_id", "source", "source_row", "reject_reason", "reject_detail"]

        found: dict[str, Reject] = {}
        with ThreadPoolExecutor(8) as pool:
            for of_unit in pool.map(
                lambda name: rejects_of(self.read_unit(fingerprint, name, columns)),
                sorted(set(names) - set(repeated)),
            ):
                for reason, reject in of_unit.items():
                    add_reject(found, reason, reject)
        return found

    def read_scores(
        self, fingerprint: str, names: list[str], columns: list[str]
    ) -> "ray.data.Dataset":
        """Columns of the SCORES rows of units, as a Ray Data dataset.

        Ray's own reader is not used: an Arrow S3 filesystem that is sent to another process is back
        at three attempts a request.
        """
        import ray

        paths = [
            pa.table({"name": names[i : i + READ_UNITS]}) for i in range(0, len(names), READ_UNITS)
        ]
        task: dict[str, Any] = {
            "batch_size": None,
            "batch_format": "pyarrow",
            "fn_args": (fingerprint, columns),
        }
        return ray.data.from_arrow(paths).map_batches(self.read_units, **task)  # type: ignore[arg-type]

    def read_units(self, names: pa.Table, fingerprint: str, columns: list[str]) -> pa.Table:
        """Ray Data UDF over names of units: their rows."""
        if not names.num_rows:
            return SCORES.empty_table().select(columns)
        with ThreadPoolExecutor(8) as pool:
            return pa.concat_tables(
                pool.map(
                    lambda name: self.read_unit(fingerprint, name, columns),
                    names["name"].to_pylist(),
                )
            )


def _has_segment(mark: bytes | None, segment: str) -> bool:
    """Whether a unit may have tokens of a segment; one that says nothing may."""
    if mark is None:
        return True
    named = Beside.of_mark(mark).segments
    return named is not None and segment in {*PARTS, *(name for name, _ in named)}


def _of_segment(segments: pa.ChunkedArray, segment: str, name: str) -> pa.Array:
    """A sum of one segment of each row: 0 without such tokens, null where none were kept."""
    rows = segments.combine_chunks()
    parts = rows.flatten()
    is_it = pc.equal(pc.struct_field(parts, "segment"), segment)
    values = pc.filter(pc.struct_field(parts, name), is_it).to_numpy()
    sums = np.zeros(len(rows), values.dtype)
    sums[pc.filter(pc.list_parent_indices(rows), is_it).to_numpy()] = values
    return pa.array(sums, mask=rows.is_null().to_numpy(zero_copy_only=False))
