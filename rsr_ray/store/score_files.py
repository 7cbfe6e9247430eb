"""score_files: the files that hold the score rows of a student, and the rows in them.

This is the one way to many rows: whoever reads them need not know whether a file is of one unit or
of many. A file that is gone when it is opened went into a part, or into another one, and its rows
are read there.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.errors import StoreError, UserError
from rsr_ray.schema import SCORES
from rsr_ray.store.beside import KEY
from rsr_ray.store.columns import as_asked, stored_columns
from rsr_ray.store.manifest import Laid, Part
from rsr_ray.store.parts import (
    HASHED,
    UNIT_COLUMNS,
    Prompts,
    by_unit,
    read_part,
    with_hashes,
    with_unit,
    within,
)
from rsr_ray.store.rejects import Reject, RejectedRow, add_reject, rejects_of
from rsr_ray.store.scores import Scores
from rsr_ray.store.units import n_rows, settle_units

MOVES = 5  # times that rows may move while they are read


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """A file with score rows."""

    place: str  # below the store
    units: tuple[str, ...]  # names of those whose rows in it count
    versions: tuple[str, ...]  # of the files that these have or had
    part: Part | None = None  # which it is, sorted by prompt_hash; None: the file of a unit

    @property
    def n_rows(self) -> int:
        """At most; rejects included."""
        return n_rows(self.units)

    @property
    def is_part(self) -> bool:
        return self.part is not None


def units_of(files: Iterable[ScoreFile]) -> dict[str, str]:
    """The units whose rows are in these, with the versions of their files."""
    return {n: v for file in files for n, v in zip(file.units, file.versions, strict=True)}


class ScoreFiles(Scores):
    """The score rows of one student in a store."""

    def score_files(self, fingerprint: str, names: Iterable[str] | None = None) -> list[ScoreFile]:
        """The files with the rows of a fingerprint's units, or of some of these; none of them
        repeats rows. Opens none of them.
        """
        laid = self.laid(fingerprint)
        units = laid.units.keys() & {*(laid.units if names is None else names)}
        return self._files_of(fingerprint, laid, units - {*settle_units(list(units))[1]})

    def files_of(self, fingerprint: str, names: Iterable[str]) -> list[ScoreFile]:
        """The files with the rows of these units, whether or not they repeat others, if they are
        there.
        """
        laid = self.laid(fingerprint)
        return self._files_of(fingerprint, laid, laid.units.keys() & {*names})

    def _files_of(self, fingerprint: str, laid: Laid, names: Iterable[str]) -> list[ScoreFile]:
        files: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            part = laid.in_part.get(name)
            place = self._part_place(fingerprint, part) if part else ""
            files[place or self._unit_place("scores", fingerprint, name)].append(name)
        return [
            ScoreFile(
                place=place,
                units=tuple(units),
                versions=tuple(laid.units[name] for name in units),
                part=laid.in_part.get(units[0]),
            )
            for place, units in files.items()
        ]

    def _part_place(self, fingerprint: str, part: Part) -> str:
        return f"{self.parts(fingerprint).place}/{part.name}"

    def read_score_file(
        self,
        fingerprint: str,
        file: ScoreFile,
        columns: list[str],
        prompts: Prompts | None = None,
    ) -> pa.Table:
        """Columns of the rows of a file that count, or of those of some prompts, as `read_unit` has
        them.

        There are also HASHED columns, int64 (`hashes`), and the name of its unit, a dictionary.
        Raises as `read_unit`, and FileNotFoundError where a unit is no longer in the store.
        """
        files = [file]
        for _ in range(MOVES):
            try:
                return pa.concat_tables(
                    [self._read(fingerprint, some, columns, prompts) for some in files]
                ).unify_dictionaries()
            except FileNotFoundError:
                files = self.files_of(fingerprint, file.units)
                if {n for some in files for n in some.units} != {*file.units}:
                    raise
        raise StoreError(f"store file {self.uri}/{file.place}: it keeps moving; try again")

    def _read(
        self,
        fingerprint: str,
        file: ScoreFile,
        columns: list[str],
        prompts: Prompts | None = None,
    ) -> pa.Table:
        """`read_score_file` of a file that is there. Raises FileNotFoundError where it is not."""
        if file.part is not None:
            where = (self.uri, file.place, self.endpoint)
            rows = read_part(where, file.part, file.units, stored_columns(columns), prompts)
            if lacking := (HASHED.keys() & {*columns}) - {*rows.column_names}:
                made_of = list({name for hashed in lacking for name in HASHED[hashed]})
                texts = read_part(where, file.part, file.units, made_of, prompts)
                for name in lacking:  # in a part of an earlier version
                    rows = rows.append_column(name, with_hashes(texts, [name])[name])
            return as_asked(self.uri, rows, file.part.mark, columns)
        (name,) = file.units
        asked = [*columns, *([] if prompts is None else ["prompt_hash"])]
        needed = dict.fromkeys(n for c in asked for n in HASHED.get(c, (c,)))
        rows = self._read_file(fingerprint, name, [n for n in needed if n not in UNIT_COLUMNS])
        rows = with_unit(with_hashes(rows, HASHED.keys() & {*asked}), name)
        if prompts is not None:
            rows = rows.filter(within(rows["prompt_hash"].to_numpy(), prompts))
        return rows.select(columns)

    def read_unit(self, fingerprint: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """Columns, or all, of the SCORES rows of a unit, in the order they were scored.

        A column `segment/name` has a sum of one segment. What an earlier version did not write and
        can be done without is null. Raises StoreError where the file is not what was written,
        UserError where an earlier version did not write a column, FileNotFoundError without it.
        """
        wanted = SCORES.names if columns is None else columns
        try:
            return self._read_file(fingerprint, name, wanted)
        except FileNotFoundError:
            (file,) = self._in_parts(fingerprint, [name])
            return self._in_order(fingerprint, file, wanted)

    def _read_file(self, fingerprint: str, name: str, wanted: list[str]) -> pa.Table:
        """`read_unit` of a unit that has a file. Raises FileNotFoundError where it has none."""
        mark, rows = self.open_unit(fingerprint, name, stored_columns(wanted))
        return as_asked(self.uri, rows, mark, wanted)

    def open_unit(
        self, fingerprint: str, name: str, columns: list[str] | None = None
    ) -> tuple[str | None, pa.Table]:
        """What the file of a unit says of what it has beside its scores, and its rows as they are
        stored; of `columns` those that it has. Raises FileNotFoundError, StoreError.
        """
        return self.open_scores(self._unit_place("scores", fingerprint, name), columns)

    def open_scores(
        self, place: str, columns: list[str] | None = None
    ) -> tuple[str | None, pa.Table]:
        """The same of a unit's file, or a part, at a place below the store."""
        opened = self._open(place, columns, SCORES)
        mark = opened.facts.get(KEY.encode(), b"").decode() or None
        return mark, opened.table.replace_schema_metadata()

    def read_each(
        self, fingerprint: str, names: Iterable[str]
    ) -> Iterator[tuple[str, str | None, pa.Table]]:
        """Of units the name, what it says of what it has beside its scores, and its SCORES rows, as
        `read_unit` has them.
        """
        in_parts = []
        for name in names:
            try:
                mark, rows = self.open_unit(fingerprint, name)
                yield name, mark, as_asked(self.uri, rows, mark, SCORES.names)
            except FileNotFoundError:
                in_parts.append(name)
        for file in self._in_parts(fingerprint, in_parts):
            assert file.part
            rows = self._in_order(fingerprint, file, [*SCORES.names, "unit"])
            found = dict(by_unit(rows))
            for name in file.units:  # one without rows only says where its shard ends
                yield name, file.part.mark, found.get(name, rows.slice(0, 0)).select(SCORES.names)

    def _in_parts(self, fingerprint: str, names: list[str]) -> list[ScoreFile]:
        """The parts with units that have no file. Raises FileNotFoundError for one in none."""
        if not names:
            return []
        part_of = self.parts(fingerprint).read()[0].part_of
        units: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if name not in part_of:
                raise FileNotFoundError(self.unit_uri(fingerprint, name))
            units[self._part_place(fingerprint, part_of[name])].append(name)
        return [
            ScoreFile(
                place=place,
                units=tuple(some),
                versions=tuple(part_of[name].units[name] for name in some),
                part=part_of[some[0]],
            )
            for place, some in units.items()
        ]

    def _in_order(self, fingerprint: str, file: ScoreFile, columns: list[str]) -> pa.Table:
        """`read_score_file`, unit by unit in the order they were scored."""
        asked = list(dict.fromkeys([*columns, *UNIT_COLUMNS]))
        rows = self.read_score_file(fingerprint, file, asked)
        order = np.lexsort(
            (rows["unit_row"].to_numpy(), rows["unit"].cast(pa.string()).to_numpy(False))
        )
        return rows.select(columns).take(pa.array(order))

    def read_mark(self, fingerprint: str, name: str) -> str | None:
        """What a unit says of what it has beside its scores; None: nothing."""
        try:
            return self.open_unit(fingerprint, name, [])[0]
        except FileNotFoundError:
            part_of = self.parts(fingerprint).read()[0].part_of
            if name not in part_of:
                raise
            return part_of[name].mark

    def find_broken(self, fingerprint: str, names: list[str], *, tokens: bool) -> dict[str, str]:
        """Those of these units that are not what was written, or whose tokens are not.

        Each with the line that says so. Reads all of them, and of parts all that is in them.
        """
        in_part = self.laid(fingerprint).in_part
        parts = {in_part[name].name: in_part[name] for name in names if name in in_part}
        lines = {n: self._problem_of_part(fingerprint, part) for n, part in parts.items()}

        def problem(name: str) -> str | None:
            if name in in_part and (line := lines[in_part[name].name]):
                return line
            try:
                if name not in in_part:
                    self._read_file(fingerprint, name, [])
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

    def _problem_of_part(self, fingerprint: str, part: Part) -> str | None:
        with contextlib.suppress(FileNotFoundError):  # another run has rewritten it
            try:
                self._open(self._part_place(fingerprint, part), [], SCORES)
            except StoreError as e:
                return str(e)
        return None

    def find_rejects(self, reason: str | None) -> dict[tuple[str, str], list[RejectedRow]]:
        """Rejected rows, of one reason or any, by (fingerprint, name) of their unit.

        Raises UserError.
        """
        found: dict[tuple[str, str], list[RejectedRow]] = {}
        units = self.units()
        if not units:
            raise UserError(f"store {self.uri}: no scores of student {self.student_name}")
        columns = [column.name for column in fields(RejectedRow)]
        wanted = (
            pc.field("reject_reason") == reason if reason else pc.field("reject_reason").is_valid()
        )
        for fingerprint, names in units.items():
            files = self.files_of(fingerprint, names)
            for rows in self._rejected_rows(fingerprint, files, [*columns, "unit"]):
                some = rows.filter(wanted)
                of_units = some["unit"].to_pylist()
                for name, row in zip(of_units, some.select(columns).to_pylist(), strict=True):
                    found.setdefault((fingerprint, name), []).append(RejectedRow(**row))
        return found

    def count_rejects(
        self, fingerprint: str, files: list[ScoreFile] | None = None
    ) -> dict[str, Reject]:
        """Rejected rows of some files, or of all, by reason; rows without a teacher count too."""
        columns = ["trajectory_id", "source", "source_row", "reject_reason", "reject_detail"]
        found: dict[str, Reject] = {}
        files = self.score_files(fingerprint) if files is None else files
        for rows in self._rejected_rows(fingerprint, files, columns):
            for reason, reject in rejects_of(rows).items():
                add_reject(found, reason, reject)
        return found

    def _rejected_rows(
        self, fingerprint: str, files: list[ScoreFile], columns: list[str]
    ) -> Iterator[pa.Table]:
        """The rejected rows of each file, in this order: what is waiting to be taken is few."""

        def read(file: ScoreFile) -> pa.Table:
            rows = self.read_score_file(fingerprint, file, columns)
            return rows.filter(pc.field("reject_reason").is_valid())

        with ThreadPoolExecutor(2 if any(file.is_part for file in files) else 16) as pool:
            yield from pool.map(read, files)

    def read_units(self, names: pa.Table, fingerprint: str, columns: list[str]) -> pa.Table:
        """Of names of units: their rows."""
        if not names.num_rows:
            return SCORES.empty_table().select(columns)
        in_parts = []

        def read(name: str) -> pa.Table | None:
            try:
                return self._read_file(fingerprint, name, columns)
            except FileNotFoundError:
                in_parts.append(name)
                return None

        with ThreadPoolExecutor(8) as pool:
            of_files = [
                rows for rows in pool.map(read, names["name"].to_pylist()) if rows is not None
            ]
        files = self._in_parts(fingerprint, in_parts)
        of_parts = [self._in_order(fingerprint, file, columns) for file in files]
        return pa.concat_tables([*of_files, *of_parts])
