"""The store: plain Parquet under one folder or bucket prefix.

    scores/student=<name>/<fingerprint>/<digit>/<unit>.parquet   one row a trajectory, rejects included; one file a work unit
    tokens/student=<name>/<fingerprint>/<digit>/<unit>.parquet   its tokens, where --token-scores asked for them
    teachers/student=<name>.parquet                              one row a teacher
    packs/student=<name>/<key>.json                              the small files that were scored together (packs.py)
    runs/<run_id>.json                                           settings, versions, the row equation, tokens, seconds
    nightly/<night>.json, nightly/lease/                         what changed in a night; who is at work on the store
    report/                                                      the page, and the same as CSV, JSON and Markdown
    races/<race id>/                                             a store of its own: what a race had scored, its shards, its answer
    claims/student=<name>/                                       who is at work on a student (lease.py)

A unit's file name is a function of the input object and the row range: a unit that is done twice overwrites itself, and
a unit whose file is there, and is what was written, is done. A file is there whole or not at all, and its seal (seal.py)
says whether it still is, and of which place. <digit> is the name's first: sixteen folders are listed sixteen times as
fast as one. Only what lies at exactly such a place is read or deleted. The teachers table keeps the names of the units
that it was made of, each with its size and time: when one of them changes it is made again.
"""

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray import seal
from rsr_ray.errors import StoreError, UserError
from rsr_ray.objects import absolute, delete, get, list_files, list_versions, put
from rsr_ray.records import broken, find_record, put_record
from rsr_ray.schema import SCORES, SCORES_VERSION, SINCE_VERSION_3, TEACHERS, TOKENS
from rsr_ray.units import UNIT_NAME, Done, Listing, MadeOf, named, outdated_units, settle_units, stale_units, unit_at, unit_name

if TYPE_CHECKING:
    import ray.data

MADE_OF_KEY = b"made_of"  # in the teachers file's metadata: MadeOf
R_MAX_KEY = "r_max"  # in the metadata of tokens: the clip of the scores beside them
RUN_NAME = re.compile(r"[^/.][^/]*\.json")
READ_UNITS = 64  # units a task of the reduce reads
STUDENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
__all__ = ["READ_UNITS", "STUDENT_NAME", "UNIT_NAME", "Done", "Store", "outdated_units", "settle_units", "stale_units", "unit_name"]


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
        return f"{self.uri}/{self._teachers_place}"

    @property
    def _teachers_place(self) -> str:
        return f"teachers/student={self.student_name}.parquet"

    def check_writable(self, run_id: str) -> None:
        """Write and delete one small object. Raises UserError."""
        probe = f"{self.uri}/runs/.{run_id}.probe"
        try:
            put(probe, b"rsr_ray", self.endpoint)
            delete(probe, self.endpoint)
        except OSError as e:
            raise UserError(f"store {self.uri}: cannot be written: {e}") from e

    # --- scores -------------------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """The student's units, and what else lies among them. Opens no file."""
        return Listing.of(list_versions(self.scores_uri, self.endpoint))

    def units(self) -> dict[str, list[str]]:
        """File names of this student's units by fingerprint, sorted. Opens no file."""
        return {fingerprint: list(units) for fingerprint, units in self.listing().units.items()}

    def counted(self, fingerprint: str) -> dict[str, str]:
        """The units of a fingerprint that count, each with the version of its file: those that repeat rows of others do not."""
        units = Listing.of({f"{fingerprint}/{path}": v for path, v in list_versions(f"{self.scores_uri}/{fingerprint}", self.endpoint).items()})
        found = units.units.get(fingerprint, {})
        _, repeated = settle_units(list(found))
        return {name: version for name, version in found.items() if name not in {*repeated}}

    def units_until(self, fingerprint: str, moment: datetime.datetime) -> list[str]:
        """File names of the units of a fingerprint that were last written no later than that, by the store's clock, sorted."""
        files = list_files(f"{self.scores_uri}/{fingerprint}", self.endpoint)
        written = {at[1]: when for path, when in files.items() if (at := unit_at(f"{fingerprint}/{path}"))}
        return sorted(name for name, when in written.items() if when is not None and when <= moment)

    def units_under(self, fingerprint: str, *, new_generation: bool) -> list[str]:
        """File names of the units under a fingerprint. Raises UserError where there are scores under others, unless that is meant."""
        return list(self.find_under(fingerprint, new_generation=new_generation))

    def find_under(self, fingerprint: str, *, new_generation: bool) -> dict[str, str]:
        """`units_under`, each with the version of its file."""
        units = self.listing().units
        others = [other for other in units if other != fingerprint]
        if others and not new_generation:
            if all(self._is_earlier(other) for other in others):
                line = f"store {self.uri} holds scores of student {self.student_name} that an earlier version of rsr_ray wrote"
                what = "they can be ranked, compared and chosen from, and not be added to"
                raise UserError(f"{line}: {what}. Give --new-generation to score all again beside them, or another --store.")
            raise UserError(
                f"store {self.uri} holds scores of student {self.student_name} under other settings or weights "
                f"(fingerprint {', '.join(others)}; this run: {fingerprint}), and the two cannot be compared. "
                "Give the old settings, another --student-name or --store, or --new-generation to score all again."
            )
        return units.get(fingerprint, {})

    def _is_earlier(self, fingerprint: str) -> bool:
        """Whether the record of the last run says that it was one of an earlier version."""
        run = self.find_run(fingerprint)
        return run is not None and run.get("scores_version", SCORES_VERSION) < SCORES_VERSION

    def generation(self) -> str:
        """The fingerprint of the scores that the teachers table was made of. Raises UserError where there are none."""
        fingerprints = sorted({*self.read_teachers()["fingerprint"].to_pylist()} or self.units())
        if len(fingerprints) != 1:
            raise UserError(f"store {self.uri}: scores of {len(fingerprints)} fingerprints of student {self.student_name}: run rsr-ray score again")
        return fingerprints[0]

    def write_scores(self, fingerprint: str, name: str, scores: pa.Table) -> None:
        """Write the SCORES rows of a unit."""
        place = self._unit_place("scores", fingerprint, name)
        put(f"{self.uri}/{place}", seal.write_parquet(scores.cast(SCORES), place), self.endpoint)

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
        place = self._unit_place("tokens", fingerprint, unit_name(unit_facts))
        put(f"{self.uri}/{place}", seal.write_parquet(tokens, place, {R_MAX_KEY: str(r_max)}, **split), self.endpoint)

    def read_unit(self, fingerprint: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Columns, or all, of the SCORES rows of a unit; what an earlier version did not write and can be done without is null.

        Raises StoreError where the file is not what was written, UserError where an earlier version did not write a column.
        """
        rows = self._open(self._unit_place("scores", fingerprint, name), columns, SCORES).table.replace_schema_metadata()
        wanted = SCORES.names if columns is None else columns
        for missing in [column for column in wanted if column not in rows.column_names]:
            if missing not in SINCE_VERSION_3:
                raise UserError(f"store {self.uri}: its scores have no column {missing}: an earlier version wrote them; score again")
            rows = rows.append_column(SCORES.field(missing).remove_metadata(), pa.nulls(rows.num_rows, SCORES.field(missing).type))
        return rows.select(wanted)

    def read_tokens(self, fingerprint: str, name: str) -> tuple[pa.Table, int]:
        """The TOKENS rows of a unit, and the r_max of its scores.

        Raises FileNotFoundError where --token-scores did not ask for them, StoreError where they are not what was written.
        """
        place = self._unit_place("tokens", fingerprint, name)
        opened = self._open(place, None, TOKENS)
        r_max = opened.facts.get(R_MAX_KEY.encode(), b"")
        if not r_max.isdigit() or len(opened.table.schema) < len(TOKENS):
            raise broken(self.uri, place, "not the tokens of a unit")
        return opened.table, int(r_max)

    def _open(self, place: str, columns: list[str] | None, schema: pa.Schema) -> seal.Opened:
        """Every Parquet file of the store is opened here. Raises FileNotFoundError, StoreError."""
        try:
            return seal.read_parquet(get(f"{self.uri}/{place}", self.endpoint), place, columns, schema)
        except seal.BrokenError as e:
            raise broken(self.uri, place, e) from None  # Ray's text of a chain of errors begins with the first

    def find_broken(self, fingerprint: str, names: list[str], *, tokens: bool) -> dict[str, str]:
        """Of these units those that are not what was written, or whose tokens are not, and the line that says so of each. Reads all of them."""

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
            return {name: line for name, line in zip(names, pool.map(problem, names), strict=True) if line}

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

    def write_teachers(self, teachers: pa.Table, units: Iterable[str] | Mapping[str, str]) -> None:
        """Write the TEACHERS table made of `units`: their names, and the versions that their files had before they were read."""
        made_of = {MADE_OF_KEY.decode(): MadeOf.of(units).packed()}
        put(self.teachers_uri, seal.write_parquet(teachers.cast(TEACHERS), self._teachers_place, made_of), self.endpoint)

    def current_teachers(self, units: Iterable[str] | Mapping[str, str]) -> pa.Table | None:
        """The stored TEACHERS table if it was made of exactly these units as they are now, else None: there is nothing to reduce."""
        try:
            teachers, made_of = self._open_teachers()
        except (UserError, StoreError):
            return None
        return teachers if made_of == MadeOf.of(units) and teachers.schema.equals(TEACHERS) else None

    def read_teachers(self) -> pa.Table:
        """The TEACHERS table. Raises UserError where the student has none, StoreError where it is not what was written."""
        return self._open_teachers()[0]

    def made_of(self) -> MadeOf:
        """What the teachers table was made of; nothing where there is none, or it does not say."""
        try:
            return self._open_teachers()[1] or MadeOf({})
        except (UserError, StoreError):
            return MadeOf({})

    def _open_teachers(self) -> tuple[pa.Table, MadeOf | None]:
        try:
            opened = self._open(self._teachers_place, None, TEACHERS)
        except (FileNotFoundError, NotADirectoryError) as e:
            if units := sum(map(len, self.units().values())):
                line = f"{units:,} work units of student {self.student_name}, and its {self._teachers_place} is not there"
                raise UserError(f"store {self.uri}: {line}: the next rsr-ray score makes it of them") from e
            known = ", ".join(self.students(self.uri, self.endpoint)) or "none yet: run rsr-ray score"
            raise UserError(f"store {self.uri}: no teachers of student {self.student_name}; students there: {known}") from e
        if missing := {"teacher", "fingerprint", "n_trajectories"} - {*opened.table.column_names}:
            raise broken(self.uri, self._teachers_place, f"it has no column {', '.join(sorted(missing))}")
        try:
            packed = opened.facts.get(MADE_OF_KEY)
            return opened.table, MadeOf.unpacked(packed) if packed else None
        except ValueError as e:
            raise broken(self.uri, self._teachers_place, "the list of its units cannot be read") from e

    @staticmethod
    def students(uri: str, endpoint: str | None) -> list[str]:
        """Names of the students that a store has a teachers table of, sorted."""
        prefix, suffix = "student=", ".parquet"
        names = [n for n in list_files(f"{absolute(uri)}/teachers", endpoint) if n.startswith(prefix) and n.endswith(suffix)]
        return sorted(n.removeprefix(prefix).removesuffix(suffix) for n in names)

    def notes(self, fingerprint: str) -> list[str]:
        """What a ranking of the units that are there must say: units gone since the table was made, and files in places that are none."""
        listing = self.listing()
        names = list(listing.units.get(fingerprint, {}))
        _, repeated = settle_units(names)
        said = self.made_of().differences({*names} - {*repeated})
        if self._is_earlier(fingerprint):
            what = "which answers the corpus calls cut off is not known, and rows of one id count once"
            said.append(f"an earlier version of rsr_ray wrote these scores: {what}; score --new-generation makes them again")
        if strays := [path for path in listing.strays if not path.rpartition("/")[2].startswith(".")]:
            what = f"{len(strays):,} files under {self.scores_uri} lie at no unit's place and are not read"
            said.append(f"{what}: {named(strays)}")
        return said

    def write_run(self, run: dict[str, Any]) -> None:
        put_record(self.uri, f"runs/{run['run_id']}.json", run, self.endpoint)

    def find_run(self, fingerprint: str) -> dict[str, Any] | None:
        """The record of the student's last run under a fingerprint; None where the store has none. A broken one is named and left out."""
        names = (name for name in list_files(f"{self.uri}/runs", self.endpoint) if RUN_NAME.fullmatch(name))
        for name in sorted(names, reverse=True):
            run = find_record(self.uri, f"runs/{name}", ("fingerprint", "config", "student"), self.endpoint)
            if run and run["fingerprint"] == fingerprint and run["config"].get("student_name") == self.student_name:
                return run
        return None


def _rejects_of(scores: pa.Table) -> dict[str, dict[str, Any]]:
    """Rejected rows by reason: `n` and `example`."""
    rejects: dict[str, dict[str, Any]] = {}
    for row in scores.filter(pc.is_valid(scores["reject_reason"])).to_pylist():
        example = f"{row['trajectory_id']} ({row['source']} row {row['source_row']}): {row['reject_detail']}"
        rejects.setdefault(row["reject_reason"], {"n": 0, "example": example})["n"] += 1
    return rejects
