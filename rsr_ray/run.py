"""The record of a run: its settings, what it counted, and the row equation that says whether it is whole."""

import dataclasses
import datetime
import importlib.metadata
import json
import resource
import sys
import time
import uuid
from collections import Counter
from typing import Any

import pyarrow as pa

import rsr_ray
from rsr_ray.cluster import Resources
from rsr_ray.config import ScoreConfig
from rsr_ray.errors import RunError, safe
from rsr_ray.objects import InputObject
from rsr_ray.packs import Pack, drop_packs, files_of, pack_up
from rsr_ray.plan import Plan
from rsr_ray.records import warn_once
from rsr_ray.schema import SCORES_VERSION
from rsr_ray.store import Store
from rsr_ray.student import StudentFacts
from rsr_ray.units import Done, n_rows, named, outdated_units, reading_of, settle_units, stale_units
from rsr_ray.watch import log

PACKAGES = ("ray", "torch", "transformers", "tokenizers", "pyarrow", "s3fs")


class Run:
    """Counts what a run read, scored and rejected, and writes it down."""

    def __init__(self, config: ScoreConfig):
        now = datetime.datetime.now(datetime.UTC)
        self.config = config
        self.run_id = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        self.begun = time.monotonic()
        self.fingerprint, self.max_length, self.shape = "", 0, ""
        self.n_scored = self.n_already = self.n_tokens = self.n_prompt_tokens = 0
        self.rejected: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.replica_seconds = 0.0
        self.splits = self.padded = self.positions = 0
        self.objects: dict[tuple[str, str], Done] = {}
        self.units: list[str] = []  # names of files: those found in the store, of them stale, and those written
        self.stale: list[str] = []
        self.written: list[str] = []
        self.replaced: list[str] = []
        self.superseded: list[Pack] = []
        self.n_files_gone = 0  # of packs that count, files that the corpus no longer has
        self.broken: dict[str, str] = {}  # units of this corpus that were not what was written: name, and what was wrong
        self.absent: dict[str, int] = {}  # what the ranking counts of shards that this corpus does not have: shards, rows
        self.reading: Plan | None = None
        self.read_apart = 0  # rows of this corpus that another teacher's columns gave
        self.facts: dict[str, Any] = {}
        self.teachers: pa.Table | None = None
        self.record: dict[str, Any] = {}

    def settle(self, student: StudentFacts, resources: Resources) -> None:
        """Fix the settings that decide the scores."""
        self.max_length = self.config.length_limit(student)
        self.fingerprint = self.config.fingerprint(student, resources.dtype, self.max_length)
        self.facts = {"student": dataclasses.asdict(student), "resources": dataclasses.asdict(resources)}

    def find(self, store: Store, files: list[InputObject]) -> list[InputObject]:
        """The objects of the corpus, small files in packs. Finds the units the store holds of them, and deletes those that are broken.

        A unit is read to see that, but where the teachers table was made of it as it is. Raises UserError where the store
        holds this student's scores under other settings.
        """
        units = store.find_under(self.fingerprint, new_generation=self.config.new_generation)
        objects, self.superseded = pack_up(files, store, list(units))
        self.n_files_gone = len({file.uri for file in files_of(objects)} - {file.uri for file in files})
        keys, known = {obj.key for obj in objects}, store.made_of().units
        unknown = [name for name, version in units.items() if known.get(name) != version and name[:16] in keys]
        self.broken = store.find_broken(self.fingerprint, unknown, tokens=self.config.token_scores)
        for line in self.broken.values():
            warn_once(f"{line}. This run scores it again.")
        store.drop(self.fingerprint, list(self.broken))
        self.units = [name for name in units if name not in self.broken]
        return objects

    def plan(self, objects: list[InputObject]) -> pa.Table:
        """The objects that are not wholly scored, as rows for `read_units`; what is scored already is counted."""
        found, self.stale = settle_units(self.units)
        todo: list[dict[str, Any]] = []
        for obj in objects:
            version = obj.version + self.config.reading.label
            state = self.objects[obj.key, version] = found.get((obj.key, version), Done())
            self.n_already += state.n_done
            if not state.whole:
                members = [dataclasses.asdict(file) for file in obj.members] if isinstance(obj, Pack) else []
                done = [list(r) for r in state.ranges]
                todo.append({"uri": obj.uri, "size": obj.size, "version": version, "members": members, "done": done, "n_files": len(members) or 1})
        if self.config.log == "text":
            files, left = files_of(objects), sum(row["n_files"] for row in todo)
            folders = {self.config.teacher or self.config.reading.teacher_of(file.uri) for file in files}
            size = sum(file.size for file in files) / 1e6
            scored = f"{len(files) - left:,} of them scored already"
            print(f"{self.shape} -> messages; {len(files):,} shards, {size:,.1f} MB, {scored}; {len(folders):,} teachers by folder", file=sys.stderr)
            if self.reading and self.reading.teachers:
                print(safe(f"teachers: {self.reading.teachers}"), file=sys.stderr)
            for note in self.reading.notes if self.reading else ():
                print(safe(note), file=sys.stderr)
        self.log("run planned", fingerprint=self.fingerprint, shards=len(objects), shards_to_do=len(todo), rows_already_scored=self.n_already)
        kinds = [("uri", pa.string()), ("version", pa.string()), ("size", pa.int64())]
        more = [("members", pa.list_(pa.struct(kinds))), ("done", pa.list_(pa.list_(pa.int64())))]
        return pa.Table.from_pylist(todo, schema=pa.schema(kinds + more))

    def count(self, unit: dict[str, Any]) -> None:
        """Add a unit that was written."""
        self.written.append(unit["file"])
        state = self.objects[unit["key"], unit["version"]]
        state.ranges.append((unit["start"], unit["stop"]))
        if unit["last"]:
            state.n_rows = unit["stop"]
        self.n_scored += unit["n_scored"]
        self.n_tokens += unit["n_tokens"]
        self.n_prompt_tokens += unit["n_prompt_tokens"]
        self.replica_seconds += unit["seconds"]
        self.splits += unit["splits"]
        self.padded += unit["padded"]
        self.positions += unit["positions"]
        for reason, reject in json.loads(unit["rejected"]).items():
            self.rejected[reason] += reject["n"]
            self.examples.setdefault(reason, reject["example"])

    @property
    def n_read(self) -> int:
        return sum(state.n_rows or 0 for state in self.objects.values())

    @property
    def equation(self) -> str:
        return f"read {self.n_read:,} = scored {self.n_scored:,} + rejected {self.rejected.total():,} + already scored {self.n_already:,}"

    def check_equation(self) -> None:
        """Raise RunError unless every row of every object is scored, rejected, or was there already."""
        open_ended = sum(not state.whole for state in self.objects.values())
        if open_ended or self.n_read != self.n_scored + self.rejected.total() + self.n_already:
            raise RunError(f"rows are missing or counted twice: {self.equation}; {open_ended} shards not whole. Run the same command again.")

    def tidy(self, store: Store, objects: list[InputObject], files: list[InputObject]) -> None:
        """Delete the units that do not count, given the run's objects and a fresh listing of the corpus.

        These are units that repeat rows of others; those of an earlier version of a shard whose present one is scored
        whole; and those this run wrote of a shard that was replaced meanwhile, because what it read may be of either
        version: the next run reads it anew.
        """
        now = {file.uri: file for file in files}
        packs = [pack.as_of(now) for pack in objects if isinstance(pack, Pack)]
        packed = {file.uri for file in files_of(packs)}
        objects = [*(file for file in files if file.uri not in packed), *packs]
        mixed = outdated_units(self.written, objects)
        self.replaced = sorted({files_of([obj])[0].uri for obj in mixed.values()})
        names = {*self.units, *self.written}
        gone = {*self.stale, *mixed, *stale_units(sorted(names), objects, self.config.reading.label)}
        # What a pack holds counts there, and no longer where it was scored before.
        counted_elsewhere = {pack.key for pack in self.superseded} | {file.key for pack in packs for file in pack.members}
        gone |= {name for name in names if name[:16] in counted_elsewhere}
        store.drop(self.fingerprint, sorted(gone))
        drop_packs(store, self.superseded)
        keys = {obj.key for obj in objects}
        self.read_apart = n_rows(n for n in names - gone if n[:16] in keys and reading_of(n) != self.config.reading.label)
        elsewhere = [name for name in names - gone if name[:16] not in keys]
        if elsewhere:
            self.absent = {"shards": len({name[:16] for name in elsewhere}), "rows": n_rows(elsewhere)}

    @property
    def notes(self) -> list[str]:
        """What a reader of the row equation has to know, a sentence each."""
        said = []
        if self.broken:
            said.append(f"{len(self.broken):,} units of the store were broken and were scored again: {named(self.broken)}")
        if self.read_apart:
            what = f"{self.read_apart:,} rows of these shards were read under another --teacher and other --columns"
            said.append(f"{what}, and count beside those of this run")
        if self.n_files_gone:
            what = f"{self.n_files_gone:,} small files that were scored together with others of this corpus are no longer in it"
            said.append(f"{what}; their rows are in the store and count")
        if self.absent:
            what = f"{self.absent['rows']:,} rows of {self.absent['shards']:,} shards that this corpus does not have are in the store and count"
            said.append(f"{what} in the ranking; to rank without them score this corpus into another --store")
        return said

    @property
    def problem(self) -> str | None:
        """Why the ranking does not stand on the whole corpus, in one line, or None."""
        assert self.teachers is not None
        if not any(self.teachers["n_trajectories"].to_pylist()):
            return "nothing was scored: every row was rejected"
        if n := self.rejected["unreadable_shard"]:
            where = self.examples["unreadable_shard"]
            return f"{n} shard(s) could not be read to the end, {where}; what could be read is scored. Mend or remove them."
        if self.replaced:
            n, first = len(self.replaced), self.replaced[0]
            return f"{n} shard(s) were replaced while they were read, {first} one of them; they do not count yet: run the same command again."
        new = self.n_scored + self.rejected.total()
        if self.rejected.total() > self.config.max_rejects * new:
            common = "; ".join(f"{reason} {n:,}, e.g. {self.examples[reason]}" for reason, n in self.rejected.most_common(3))
            return f"{self.rejected.total():,} of {new:,} rows were rejected, more than --max-rejects {self.config.max_rejects:g}: {common}"
        return None

    def finish(self) -> dict[str, Any]:
        """What is stored as runs/<run_id>.json; kept as `record`."""
        seconds = time.monotonic() - self.begun
        tokens = self.n_tokens + self.n_prompt_tokens
        self.record = {
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "scores_version": SCORES_VERSION,
            "config": dataclasses.asdict(self.config),
            "max_length": self.max_length,
            "shape": self.shape,
            "plan": dataclasses.asdict(self.reading) if self.reading else None,
            **self.facts,
            "versions": {"rsr_ray": rsr_ray.__version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
            "equation": {
                "read": self.n_read,
                "scored": self.n_scored,
                "rejected": dict(self.rejected.most_common()),
                "already_scored": self.n_already,
                "holds": self.n_read == self.n_scored + self.rejected.total() + self.n_already,
            },
            "reject_examples": self.examples,
            "replaced_while_read": self.replaced,
            "broken_units": sorted(self.broken),
            "not_in_corpus": self.absent,
            "notes": self.notes,
            "scored_tokens": self.n_tokens,
            "prompt_tokens": self.n_prompt_tokens,
            "padding_share": round(1 - self.positions / self.padded, 4) if self.padded else None,
            "out_of_memory_splits": self.splits,
            "seconds": round(seconds, 3),
            "replica_seconds": round(self.replica_seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "driver_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        self.log("run finished", equation=self.equation, seconds=self.record["seconds"], tokens_per_second=self.record["tokens_per_second"])
        return self.record

    def log(self, event: str, **facts: Any) -> None:
        """A line of the structured log, with the run's id."""
        log.info(event, extra={"run_id": self.run_id, "student": self.config.student_name, **facts})
