"""The units of a run in the store: those found, those written, and those that do not count."""

from dataclasses import dataclass

from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import counted
from rsr_ray.files.objects import InputObject
from rsr_ray.run.lacking import Lacking, find_lacking
from rsr_ray.store.beside import Generation
from rsr_ray.store.packs import Pack, drop_packs, files_of, pack_up
from rsr_ray.store.records import warn_once
from rsr_ray.store.store import Store
from rsr_ray.store.units import (
    Done,
    n_rows,
    named,
    outdated_units,
    reading_of,
    settle_units,
    stale_units,
)


@dataclass(frozen=True)
class Absent:
    """What the ranking counts of shards that this corpus does not have."""

    shards: int
    rows: int


class RunUnits:
    """Which units a run found and wrote, by the names of their files."""

    def __init__(self, config: ScoreConfig):
        self.config = config
        self.found: list[str] = []
        self.repeated: list[str] = []  # of those found: their rows are in others too
        self.written: list[str] = []
        self.replaced: list[str] = []  # URIs of shards that were replaced while they were read
        self.superseded: list[Pack] = []
        self.n_files_gone = 0  # of packs that count, files that the corpus no longer has
        # units of this corpus that were not what was written: name, and what was wrong
        self.broken: dict[str, str] = {}
        # by name, what is known of what units have beside their scores, as their files say it
        self.marks: dict[str, str] = {}
        self.lacking = Lacking()  # what units lack of what this run asks for
        self.added_to: list[str] = []  # units that were looked at again for it
        self.read_apart = 0  # rows of this corpus that another teacher's columns gave
        self.absent: Absent | None = None

    def find(
        self, store: Store, generation: Generation, files: list[InputObject]
    ) -> list[InputObject]:
        """The objects of the corpus, small files in packs.

        Finds the units the store holds of them, and what these lack, and deletes those that are
        broken.

        A unit is read to see that, but where the teachers table was made of it as it is. Raises
        UserError where the store holds this student's scores under other settings.
        """
        fingerprint = generation.fingerprint
        units = store.find_under(generation, new_generation=self.config.new_generation)
        objects, self.superseded = pack_up(files, store, list(units))
        gone = {file.uri for file in files_of(objects)} - {file.uri for file in files}
        self.n_files_gone = len(gone)
        keys = {obj.key for obj in objects}
        made_of = store.made_of()
        known = {name for name, version in units.items() if made_of.units.get(name) == version}
        unknown = [name for name in units if name not in known and name[:16] in keys]
        self.broken = store.find_broken(fingerprint, unknown, tokens=self.config.token_scores)
        for line in self.broken.values():
            warn_once(f"{line}. This run scores it again.")
        store.drop(fingerprint, list(self.broken))
        self.found = [name for name in units if name not in self.broken]
        whole = [obj for obj in objects if not gone & {file.uri for file in files_of([obj])}]
        label = self.config.reading.label
        shards = [(obj.key, obj.version + label) for obj in whole]
        marks = made_of.known_marks(units)
        asked = self.config.beside
        self.lacking = find_lacking(store, generation, asked, self.found, shards, marks)
        self.marks = {**marks, **self.lacking.marks}
        return objects

    def settle(self) -> dict[tuple[str, str], Done]:
        """What the units found hold of each object, by its key and version."""
        done, self.repeated = settle_units(self.found)
        return done

    def tidy(
        self, store: Store, fingerprint: str, objects: list[InputObject], files: list[InputObject]
    ) -> None:
        """Delete the units that do not count, given the run's objects and a fresh listing of the
        corpus.

        These are units that repeat rows of others; those of an earlier version of a shard whose
        present one is scored whole; and those this run wrote of a shard that was replaced
        meanwhile, because what it read may be of either version: the next run reads it anew.
        """
        now = {file.uri: file for file in files}
        packs = [pack.as_of(now) for pack in objects if isinstance(pack, Pack)]
        packed = {file.uri for file in files_of(packs)}
        objects = [*(file for file in files if file.uri not in packed), *packs]
        mixed = outdated_units(self.written, objects)
        self.replaced = sorted({files_of([obj])[0].uri for obj in mixed.values()})
        names = {*self.found, *self.written}
        stale = stale_units(sorted(names), objects, self.config.reading.label)
        # What a pack holds counts there, and no longer where it was scored before.
        counted_elsewhere = {pack.key for pack in self.superseded}
        counted_elsewhere |= {file.key for pack in packs for file in pack.members}
        gone = {*self.repeated, *mixed, *stale}
        gone |= {name for name in names if name[:16] in counted_elsewhere}
        store.drop(fingerprint, sorted(gone))
        drop_packs(store, self.superseded)
        self._look_at_rest(names - gone, {obj.key for obj in objects})

    def _look_at_rest(self, names: set[str], keys: set[str]) -> None:
        """Note what is in the store, and counts, beside what this run reads of its corpus."""
        label = self.config.reading.label
        self.read_apart = n_rows(
            name for name in names if name[:16] in keys and reading_of(name) != label
        )
        elsewhere = [name for name in names if name[:16] not in keys]
        if elsewhere:
            self.absent = Absent(len({name[:16] for name in elsewhere}), n_rows(elsewhere))

    @property
    def notes(self) -> list[str]:
        """What a reader of the row equation has to know, a sentence each."""
        said = []
        if self.broken:
            said.append(
                f"Scored {counted(len(self.broken), 'broken unit')} of the store again: "
                f"{named(self.broken)}"
            )
        if self.read_apart:
            said.append(
                f"Also counting {counted(self.read_apart, 'row')} of these shards, scored earlier "
                "with another --teacher and other --columns"
            )
        if self.n_files_gone:
            said.append(
                f"{self.n_files_gone:,} small files that were scored together with others of "
                "this corpus have been removed from it; their rows are still in the store and "
                "count"
            )
        if self.absent:
            said.append(
                f"{self.absent.rows:,} rows of {self.absent.shards:,} shards that are not in "
                "this corpus are in the store and count in the ranking; to rank without them, "
                "score this corpus into another --store"
            )
        return said
