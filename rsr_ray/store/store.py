"""The store: plain Parquet under one folder or bucket prefix.

    scores/student=<name>/<fingerprint>/<digit>/<unit>.parquet
                                     one row a trajectory, rejects included; one file a work unit
    scores/student=<name>/<fingerprint>/parts/<hex>.parquet
                                     the same rows of many units (parts.py, compaction.py)
    scores/student=<name>/<fingerprint>/parts/<number>.json
                                     the manifest: which units are in which part (manifest.py)
    tokens/student=<name>/<fingerprint>/<digit>/<unit>.parquet
                                     its tokens, where --token-scores asked for them
    teachers/student=<name>.parquet  one row a teacher
    summaries/student=<name>.parquet what very many score rows came to (decide/kept.py)
    packs/student=<name>/<key>.json  the small files that were scored together (packs.py)
    runs/<run_id>.json               settings, versions, the row equation, tokens, seconds
    nightly/<night>.json             what changed in a night
    nightly/lease/                   who is at work on the store
    status.json, status.prom         what the last runs and the last night came to (figures.py)
    report/                          the page, the same as CSV, JSON and Markdown, and its charts
    races/<race id>/                 a store of its own: what a race had scored, its shards, answer
    claims/student=<name>/           who is at work on a student (lease.py)

A unit's file name is a function of the input object and the row range: a unit that is done twice
overwrites itself, and a unit whose file is there, and is what was written, is done, as is one that
the manifest has in a part. A file is there whole or not at all, and its seal (seal.py) says whether
it still is, and of which place. <digit> is the name's first: sixteen folders are listed sixteen
times as fast as one. Only what lies at exactly such a place is read or deleted. The teachers table
keeps the names of the units that it was made of, each with its size and time: when one of them
changes it is made again. A unit that went into a part keeps the size and time that its file had.

Whoever reads lists units first and then the manifest, so that a unit that moves meanwhile is seen
in one of them, and looks again where a file is gone (score_files.py). Whoever drops a unit deletes
its file first, and then takes it out of the manifest.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import pyarrow as pa

from rsr_ray.errors import StoreError, UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import check_access, list_files, put
from rsr_ray.files.rights import DeniedError
from rsr_ray.schema import SCORES_VERSION, TEACHERS
from rsr_ray.store import seal
from rsr_ray.store.beside import NOTHING, Beside, Generation, HashOf, kept_under
from rsr_ray.store.records import broken, find_record, put_record
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.score_files import ScoreFiles
from rsr_ray.store.seal import Record
from rsr_ray.store.teacher_rows import TeacherRow, teacher_rows
from rsr_ray.store.units import (
    MadeOf,
    named,
    settle_units,
)

# of write_summary: arrays by name
SUMMARY = pa.schema({"name": pa.string(), "values": pa.large_binary()})
MADE_OF_KEY, MARKS_KEY = b"made_of", b"beside"  # in the teachers file's metadata: MadeOf
RUN_NAME = re.compile(r"[^/.][^/]*\.json")


class Store(ScoreFiles):
    """One student's part of a store. Small and picklable: it travels to the tasks that write."""

    def check_access(self, run_id: str) -> None:
        """List the store, and write, read and delete one small object. Raises UserError."""
        try:
            check_access(self.uri, f"runs/.{run_id}.probe", self.endpoint)
        except DeniedError:
            raise
        except OSError as e:
            raise UserError(f"store {self.uri}: cannot be written: {e}") from e

    def find_generation(self, hash_of: HashOf, asked: Beside) -> Generation:
        """Where the scores that a run's settings give lie, or will lie. Lists a folder only.

        `asked` is what the run asks for beside them.
        """
        own = hash_of(NOTHING)
        names = self._fingerprints()
        same = _same_scores({name: [asked] for name in names}, hash_of)
        if not same:  # the last run under a name knows what may be in it
            runs = {name: self.find_run(name) for name in names}
            same = _same_scores({n: run.asked for n, run in runs.items() if run}, hash_of)
        name = own if own in same or not same else min(same)
        if len(same) > 1:  # an earlier version scored again to add something
            with suppress(UserError, StoreError):
                ranked = {*self.read_teachers()["fingerprint"].to_pylist()} & same.keys()
                name = min(ranked, default=name)
        return Generation(
            fingerprint=name, kept=same.get(name, NOTHING), same=frozenset({*same, own})
        )

    def find_under(self, generation: Generation, *, new_generation: bool) -> dict[str, str]:
        """File names of the units of a generation, each with the version of its file.

        Raises UserError where there are scores of other settings, unless that is meant.
        """
        units = self.listing().units
        others = [other for other in units if other not in generation.same]
        if others and not new_generation:
            if all(self._version(other) < SCORES_VERSION for other in others):
                line = (
                    f"store {self.uri} has scores of student {self.student_name} that an earlier "
                    "version of rsr_ray wrote"
                )
                what = "they can be ranked, compared and chosen from, but not added to"
                raise UserError(
                    f"{line}: {what}. Pass --new-generation to score everything again next to "
                    "them, or use another --store."
                )
            raise UserError(
                f"store {self.uri} has scores of student {self.student_name} under other "
                f"settings or weights (fingerprint {', '.join(others)}; this run: "
                f"{generation.fingerprint}), and the two cannot be mixed. Use the old settings, "
                "another --student-name or --store, or pass --new-generation to score everything "
                "again."
            )
        return units.get(generation.fingerprint, {})

    def _version(self, fingerprint: str) -> int:
        """SCORES_VERSION of the last run, by its record; this version's where none says it."""
        run = self.find_run(fingerprint)
        return (run and run.scores_version) or SCORES_VERSION

    def generation(self) -> str:
        """The fingerprint of the scores behind the teachers table. Raises UserError without any."""
        fingerprints: list[str] = sorted(
            {*self.read_teachers()["fingerprint"].to_pylist()} or self.units()
        )
        if len(fingerprints) != 1:
            raise UserError(
                f"store {self.uri}: it has scores of student {self.student_name} under "
                f"{len(fingerprints)} fingerprints: run rsr-ray score again"
            )
        return fingerprints[0]

    @property
    def teachers_uri(self) -> str:
        return f"{self.uri}/{self._teachers_place}"

    @property
    def _teachers_place(self) -> str:
        return f"teachers/student={self.student_name}.parquet"

    def write_teachers(
        self,
        teachers: pa.Table,
        units: Iterable[str] | Mapping[str, str],
        marks: Mapping[str, str] | None = None,
    ) -> None:
        """Write the TEACHERS table with the `units` it was made of.

        Their versions are those that their files had before they were read; `marks` are what is
        known of what they have beside their scores.
        """
        made_of = MadeOf.of(units, marks)
        facts = {MADE_OF_KEY: made_of.packed(), MARKS_KEY: made_of.packed_marks()}
        named = {key.decode(): packed for key, packed in facts.items()}
        data = seal.write_parquet(teachers.cast(TEACHERS), self._teachers_place, named)
        put(self.teachers_uri, data, self.endpoint)

    @property
    def _summary_place(self) -> str:
        return f"summaries/student={self.student_name}.parquet"

    def write_summary(self, table: pa.Table, facts: dict[str, str]) -> None:
        """Write what the score rows of the student came to (decide/kept.py)."""
        data = seal.write_parquet(table, self._summary_place, facts)
        put(f"{self.uri}/{self._summary_place}", data, self.endpoint)

    def read_summary(self) -> tuple[pa.Table, dict[str, str]]:
        """That, with its facts. Raises FileNotFoundError, StoreError."""
        opened = self._open(self._summary_place, None, SUMMARY)
        return opened.table, {name.decode(): v.decode() for name, v in opened.facts.items()}

    def current_teachers(
        self, units: Iterable[str] | Mapping[str, str], marks: Mapping[str, str] | None = None
    ) -> pa.Table | None:
        """The stored TEACHERS table if made of exactly these units as they are now, else None; it
        also says of them what `marks` do.
        """
        wanted = MadeOf.of(units, marks)
        try:
            teachers, made_of = self._open_teachers()
        except (UserError, StoreError):
            return None
        if made_of is None or made_of != wanted or not teachers.schema.equals(TEACHERS):
            return None
        return teachers if made_of.marks.items() >= wanted.marks.items() else None

    def read_teachers(self) -> pa.Table:
        """The TEACHERS table.

        Raises UserError where the student has none, StoreError where it is not what was written.
        """
        return self._open_teachers()[0]

    def read_teacher_rows(self) -> list[TeacherRow]:
        """The rows of `read_teachers`, in its order. Raises as that."""
        return teacher_rows(self.read_teachers())

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
                line = (
                    f"{units:,} work units of student {self.student_name}, but "
                    f"{self._teachers_place} is missing"
                )
                raise UserError(
                    f"store {self.uri}: {line}: the next run of rsr-ray score recreates it"
                ) from e
            known = (
                ", ".join(self.students(self.uri, self.endpoint)) or "none yet: run rsr-ray score"
            )
            raise UserError(
                f"store {self.uri}: no teachers of student {self.student_name}; students in the "
                f"store: {known}"
            ) from e
        if missing := {"teacher", "fingerprint", "n_trajectories"} - {*opened.table.column_names}:
            raise broken(
                self.uri, self._teachers_place, f"it has no column {', '.join(sorted(missing))}"
            )
        try:
            packed = opened.facts.get(MADE_OF_KEY)
            marks = opened.facts.get(MARKS_KEY)
            return opened.table, MadeOf.unpacked(packed, marks) if packed else None
        except ValueError as e:
            raise broken(
                self.uri, self._teachers_place, "the list of its units cannot be read"
            ) from e

    @staticmethod
    def students(uri: str, endpoint: str | None) -> list[str]:
        """Names of the students that a store has a teachers table of, sorted."""
        prefix, suffix = "student=", ".parquet"
        names = [
            n
            for n in list_files(f"{absolute(uri)}/teachers", endpoint)
            if n.startswith(prefix) and n.endswith(suffix)
        ]
        return sorted(n.removeprefix(prefix).removesuffix(suffix) for n in names)

    def notes(self, fingerprint: str) -> list[str]:
        """What a ranking must say: units gone since the table, and files at no unit's place."""
        listing = self.listing()
        names = list(listing.units.get(fingerprint, {}))
        _, repeated = settle_units(names)
        said = self.made_of().differences({*names} - {*repeated})
        if self._version(fingerprint) < 3:
            what = (
                "it is not known which answers the corpus marks as cut off, and rows with the "
                "same id count once"
            )
            said.append(
                f"an earlier version of rsr_ray wrote these scores: {what}; rsr-ray score "
                "--new-generation scores them again"
            )
        if strays := [
            path for path in listing.strays if not path.rpartition("/")[2].startswith(".")
        ]:
            what = (
                f"{len(strays):,} files under {self.scores_uri} are not work units and are not read"
            )
            said.append(f"{what}: {named(strays)}")
        return said

    def write_run(self, run: RunRecord) -> None:
        put_record(self.uri, f"runs/{run.run_id}.json", run.to_json(), self.endpoint)

    def find_run(self, fingerprint: str) -> RunRecord | None:
        """The record of the student's last run under a fingerprint; None where there is none."""
        return next((run for run in self._runs() if run.fingerprint == fingerprint), None)

    def last_run(self) -> RunRecord | None:
        """The record of the student's last run; None where the store has none."""
        return next(self._runs(), None)

    def run_configs(self) -> Iterator[Record]:
        """The settings of the student's runs, the last first."""
        return (run.config for run in self._runs())

    def _runs(self) -> Iterator[RunRecord]:
        """The records of the student's runs, the last first. A broken one is named and left out."""
        names = (
            name
            for name in list_files(f"{self.uri}/runs", self.endpoint)
            if RUN_NAME.fullmatch(name)
        )
        for name in sorted(names, reverse=True):
            run = find_record(
                self.uri, f"runs/{name}", ("fingerprint", "config", "student"), self.endpoint
            )
            if run and run["config"].get("student_name") == self.student_name:
                yield RunRecord.from_json(run)


def _same_scores(known: Mapping[str, list[Beside]], hash_of: HashOf) -> dict[str, Beside]:
    """The fingerprints of the same scores, each with what its name says is kept beside them."""
    found = {name: kept_under(name, hash_of, some) for name, some in known.items()}
    return {name: kept for name, kept in found.items() if kept is not None}
