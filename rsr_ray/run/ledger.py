"""The ledger of a run: its settings, what it counted, and the row equation that says whether it
is whole.
"""

import datetime
import sys
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import asdict
from re import Match
from typing import Any

import pyarrow as pa

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.plan import Plan
from rsr_ray.errors import RunError, UserError, counted, safe
from rsr_ray.files.objects import InputObject
from rsr_ray.run.cluster import count_replicas
from rsr_ray.run.counts import Added, Counts, WrittenUnit, again
from rsr_ray.run.display import size
from rsr_ray.run.figures import expected_of
from rsr_ray.run.progress import Progress
from rsr_ray.run.record import make_record
from rsr_ray.run.resources import Resources
from rsr_ray.run.units import RunUnits
from rsr_ray.store.beside import Generation
from rsr_ray.store.packs import Pack, files_of
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from rsr_ray.store.units import UNIT_NAME, Done, n_rows
from rsr_ray.student.facts import StudentFacts
from rsr_ray.watch import log

FILE = [("uri", pa.string()), ("version", pa.string()), ("size", pa.int64())]
# What `read_units` reads: objects, of packs their files, and the rows that are scored already.
TODO = pa.schema(
    [
        *FILE,
        ("members", pa.list_(pa.struct(FILE))),
        ("done", pa.list_(pa.list_(pa.int64()))),
        ("again", pa.list_(pa.list_(pa.int64()))),  # units to add to: start, stop, whether last
    ]
)


class Run:
    """Counts what a run read, scored and rejected, and writes it down.

    `n_read`, `n_scored`, `rejected` and `n_already` are its row equation.
    """

    def __init__(self, config: ScoreConfig):
        now = datetime.datetime.now(datetime.UTC)
        self.config = config
        self.run_id = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        self.begun = time.monotonic()
        # how the corpus is read
        self.reading: Plan | None = None
        self.shape = ""
        # what decides the scores
        self.student: StudentFacts | None = None
        self.identity = ""
        self.max_length = 0
        self.settings_hash = ""  # with what is asked for beside the scores
        self.generation = Generation(fingerprint="")
        self.resources = Resources(replicas=0, gpus_per_replica=0, dtype="", batch_tokens=0)
        # what is there and what is done, shards by key and version
        self.units = RunUnits(config)
        self.objects: dict[tuple[str, str], Done] = {}
        self.sizes: dict[tuple[str, str], int] = {}  # of the shards to do
        self.counts = Counts()
        self.n_already = 0
        self.progress: Progress | None = None
        # the outcome
        self.teachers: pa.Table | None = None
        self.record: RunRecord  # once it is finished

    def settle(self, store: Store, student: StudentFacts, dtype: str) -> None:
        """Fix the settings that decide the scores, and where these lie."""
        self.student = student
        self.max_length = self.config.length_limit(student)
        hash_of = self.config.hash_of(student, dtype, self.max_length)
        self.settings_hash = hash_of(self.config.beside)
        self.generation = store.find_generation(hash_of, self.config.beside)
        self.resources = Resources(replicas=0, gpus_per_replica=0, dtype=dtype, batch_tokens=0)

    def use(self, resources: Resources) -> None:
        """Keep what the run takes.

        Raises UserError where it would score in another dtype than the store has.
        """
        dtype = self.resources.dtype
        if resources.dtype != dtype:
            raise UserError(
                f"the store has scores in {dtype}, but --dtype auto is {resources.dtype} on this "
                f"cluster: pass --dtype {dtype} to add to them, or use another --store"
            )
        self.resources = resources

    def plan(self, objects: list[InputObject]) -> pa.Table:
        """The objects that are not wholly scored, as rows for `read_units`; what is scored
        already is counted.
        """
        done, label = self.units.settle(), self.config.reading.label
        todo = []
        for obj in objects:
            version = obj.version + label
            state = self.objects[obj.key, version] = done.get((obj.key, version), Done())
            self.n_already += state.n_done
            if not state.whole:
                self.sizes[obj.key, version] = obj.size
                todo.append(_to_read(obj, version, state))
        n_left = sum(len(row["members"]) or 1 for row in todo)
        todo += self._to_add(objects)
        if self.config.log == "text":
            self._say_plan(files_of(objects), n_left)
        self.log(
            "run planned",
            fingerprint=self.fingerprint,
            shards=len(objects),
            shards_to_do=len(todo),
            rows_already_scored=self.n_already,
            rows_to_add_to=n_rows(self.units.lacking.units),
        )
        return pa.Table.from_pylist(todo, schema=TODO) if todo else TODO.empty_table()

    def _to_add(self, objects: list[InputObject]) -> list[dict[str, Any]]:
        """Rows for `read_units` of the objects some of whose units lack what is asked for."""
        units: dict[str, list[Match[str]]] = defaultdict(list)
        for name in self.units.lacking.units:
            unit = UNIT_NAME.fullmatch(name)
            assert unit
            units[unit["key"]].append(unit)
        rows = []
        for obj in (obj for obj in objects if obj.key in units):
            version = obj.version + self.config.reading.label
            found = [
                [int(u["start"]), int(u["stop"]), int(u["last"] is not None)]
                for u in units[obj.key]
            ]
            done = self.objects[obj.key, version]
            share = sum(stop - start for start, stop, _ in found) / max(1, done.n_done)
            self.sizes[obj.key, again(version)] = max(1, round(share * obj.size))
            rows.append(_to_read(obj, version, done) | {"again": found})
        return rows

    def _say_plan(self, files: list[InputObject], n_left: int) -> None:
        said = (
            f"Found {counted(len(files), 'shard')} ({size(sum(file.size for file in files))}), "
            f"{len(files) - n_left:,} already scored; reading rows as {self.shape}"
        )
        print(said, file=sys.stderr)
        if adding := self.units.lacking.what_to_what:
            print(f"Adding {adding}; their scores stay as they are", file=sys.stderr)
        if self.reading is None:
            return
        if self.reading.teachers:
            print(safe(f"Teachers: {self.reading.teachers}"), file=sys.stderr)
        for note in self.reading.notes:
            print(safe(note), file=sys.stderr)

    def follow(self, label: str) -> Progress:
        """The progress of this run, which `count` tells of each unit."""
        rows_before = {
            shard: self.objects[shard].n_done if shard in self.objects else 0
            for shard in self.sizes
        }
        self.progress = Progress(
            label,
            self.sizes,
            rows_before,
            self.resources.replicas,
            self.counts,
            self.begun,
            count_replicas=lambda: count_replicas("MapBatches(Score)"),
        )
        return self.progress

    def count(self, unit: WrittenUnit) -> None:
        """Add a unit that was written, or added to."""
        if unit.added is None:
            self.units.written.append(unit.file)
            self.units.marks[unit.file] = self.config.beside.mark
            state = self.objects[unit.shard]
            state.ranges.append((unit.start, unit.stop))
            if unit.last:
                state.n_rows = unit.stop
        else:
            self.units.added_to.append(unit.file)
            if unit.added.mark:
                self.units.marks[unit.file] = unit.added.mark
        self.counts.add(unit)
        if self.progress is not None:
            self.progress.add(unit)

    @property
    def fingerprint(self) -> str:
        """Of the scores, in the store."""
        return self.generation.fingerprint

    @property
    def needs_student(self) -> bool:
        """Whether there is anything that only the student can tell."""
        new = any(not state.whole for state in self.objects.values())
        return new or self.units.lacking.needs_student

    @property
    def notes(self) -> list[str]:
        """What a reader of the row equation has to know, a sentence each."""
        added = self.counts.added or Added()
        return [*self.units.notes, *self.units.lacking.notes(self.units.added_to, added)]

    @property
    def n_read(self) -> int:
        return sum(state.n_rows or 0 for state in self.objects.values())

    @property
    def n_scored(self) -> int:
        return self.counts.n_scored

    @property
    def rejected(self) -> Counter[str]:
        """Rows, by reason."""
        return self.counts.rejected

    @property
    def n_counted(self) -> int:
        """What `n_read` is equal to where no row is missing or counted twice."""
        return self.n_scored + self.rejected.total() + self.n_already

    @property
    def equation(self) -> str:
        return (
            f"read {self.n_read:,} = scored {self.n_scored:,} + rejected "
            f"{self.rejected.total():,} + already scored {self.n_already:,}"
        )

    def check_equation(self) -> None:
        """Raise RunError unless every row of every object is scored, rejected, or was there
        already.
        """
        open_ended = sum(not state.whole for state in self.objects.values())
        if open_ended or self.n_read != self.n_counted:
            raise RunError(
                f"rows are missing or counted twice: {self.equation}; "
                f"{counted(open_ended, 'shard')} incomplete. Rerun the same command."
            )

    @property
    def problem(self) -> str | None:
        """Why the ranking does not stand on the whole corpus, in one line, or None."""
        assert self.teachers is not None
        examples = self.counts.examples
        if not any(self.teachers["n_trajectories"].to_pylist()):
            return "nothing was scored: every row was rejected"
        if n := self.rejected["unreadable_shard"]:
            return (
                f"{counted(n, 'shard')} could not be read to the end, "
                f"{examples['unreadable_shard']}; the rows before that are scored. Fix or remove "
                "what is broken."
            )
        if replaced := self.units.replaced:
            return (
                f"{counted(len(replaced), 'shard')} replaced while being read, e.g. "
                f"{replaced[0]}; rerun the same command to count the new rows."
            )
        n_new = self.n_scored + self.rejected.total()
        if self.rejected.total() > self.config.max_rejects * n_new:
            common = "; ".join(
                f"{reason} {n:,}, e.g. {examples[reason]}"
                for reason, n in self.rejected.most_common(3)
            )
            return (
                f"{self.rejected.total():,} of {n_new:,} rows were rejected, more than "
                f"--max-rejects {self.config.max_rejects:g} allows: {common}; rsr-ray rejects "
                "lists them"
            )
        return None

    def finish(self) -> RunRecord:
        """The record of the run, which is kept here too."""
        self.record = make_record(self, time.monotonic() - self.begun, expected_of(self))
        self.log(
            "run finished",
            equation=self.equation,
            seconds=self.record.seconds,
            tokens_per_second=self.record.tokens_per_second,
        )
        return self.record

    def log(self, event: str, **facts: Any) -> None:
        """A line of the structured log, with the run's id."""
        log.info(event, extra={"run_id": self.run_id, "student": self.config.student_name, **facts})


def _to_read(obj: InputObject, version: str, state: Done) -> dict[str, Any]:
    """A row of TODO."""
    return {
        "uri": obj.uri,
        "size": obj.size,
        "version": version,
        "members": [asdict(file) for file in obj.members] if isinstance(obj, Pack) else [],
        "done": [list(rows) for rows in state.ranges],
        "again": [],
    }
