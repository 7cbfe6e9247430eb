"""compaction: the rows of many units go into a few part files.

    1. the parts are written, each whole, under names that nobody knows
    2. the manifest that names them, and their units, is created, if the one that was read at the
       beginning still counts
    3. what is no longer read is deleted: files of these units, rewritten parts, nameless parts

Until the second step nothing has changed, and it is one object. So a compaction that dies anywhere
loses nothing and doubles nothing, and the next one deletes what it left. Of two at once one creates
the manifest, and the other begins again. Nothing is deleted but by one that has created a manifest,
and what it then lists: so no other can still come to name a part that is deleted. A unit that is
deleted meanwhile is found to be gone before the third step, and leaves the manifest; one that is
written meanwhile has another version, stays, and counts before what the part has of it.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.errors import StoreError
from rsr_ray.files.objects import delete, put
from rsr_ray.files.rights import DeniedError
from rsr_ray.store.lease import alone, is_alone_at_work
from rsr_ray.store.manifest import PART_NAME, Laid, Manifest, Part
from rsr_ray.store.parts import HASHED, described, part_bytes, with_hashes, with_unit
from rsr_ray.store.records import warn_once
from rsr_ray.store.store import Store
from rsr_ray.store.units import n_rows, settle_units
from rsr_ray.watch import log

FEWEST_ROWS, FEWEST_UNITS = 100_000, 400  # in files of units, from which on they go into parts
PART_ROWS = 262_144  # with so many a part is written
TRIES = 3  # when others come first
AT_ONCE = 16  # files read, or deleted


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done."""

    units: tuple[str, ...]  # that go from their files into parts
    parts: tuple[Part, ...]  # that are rewritten, because not all their rows count, or are few
    tidies: bool  # whether anything is to be deleted

    def __bool__(self) -> bool:
        return bool(self.units or self.parts or self.tidies)


Kind = tuple[str | None, tuple[str, ...]]  # of units in one part: their mark, and their columns


@dataclass
class Pile:
    """Rows that go into one part."""

    tables: list[pa.Table] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)  # with the versions of their files
    n_rows: int = 0


def compact(store: Store, fingerprint: str) -> None:
    """Compact what is worth it, unless another run is at work on the student: the last one does it.

    Whoever starts meanwhile waits. What goes wrong is said, and left to the next run: every score
    is in the store. Raises DeniedError where a right to it is missing.
    """
    try:
        if not find_work(store.laid(fingerprint)):
            return
        with alone(store):
            tries = range(TRIES if is_alone_at_work(store) else 0)
            any(compact_once(store, fingerprint) for _ in tries)
    except DeniedError:
        raise
    except (OSError, StoreError) as e:
        warn_once(f"the units of {store.scores_uri} could not go into parts: {e}")


def find_work(laid: Laid) -> Work:
    """What a compaction would do."""
    in_part, manifest = laid.in_part, laid.manifest
    counted = {*laid.units} - {*settle_units(list(laid.units))[1]}
    new = sorted(counted - in_part.keys())
    is_worth_it = n_rows(new) >= FEWEST_ROWS or len(new) >= FEWEST_UNITS
    parts = tuple(
        part
        for part in manifest.parts
        if not part.is_whole
        or any(name not in in_part for name in part.units)
        or (is_worth_it and part.n_rows < FEWEST_ROWS)
    )
    named = {part.name for part in manifest.parts}
    nameless = any(PART_NAME.fullmatch(name) and name not in named for name in laid.parts)
    return Work(
        units=tuple(new) if is_worth_it else (),
        parts=parts,
        tidies=nameless or bool(in_part.keys() & laid.files.keys()),
    )


def compact_once(store: Store, fingerprint: str) -> bool:
    """Compact as things are; whether it was done. Else others have changed them, and nothing is."""
    laid = store.laid(fingerprint)
    work = find_work(laid)
    if not work:
        return True
    writer = Writer(store, fingerprint)
    rewritten = {part.name for part in work.parts if writer.add_part(part, laid)}
    writer.add_units({name: laid.files[name] for name in work.units})
    written = writer.finish()
    folder, number = store.parts(fingerprint), laid.manifest.number
    before = folder.files()
    if not all(part.name in before for part in written):  # deleted by one that came first
        return False
    new = [replace(part, version=before[part.name]) for part in written]
    kept = Manifest(number, tuple(p for p in laid.manifest.parts if p.name not in rewritten))
    parts = (*kept.without(name for part in new for name in part.units).parts, *new)
    if not folder.put(Manifest(number, parts)):
        return False
    _delete_rest(store, fingerprint, Manifest(number + 1, parts), before, writer.from_files)
    log.info(
        "compacted",
        extra={"fingerprint": fingerprint, "units": len(work.units), "parts": len(new)},
    )
    return True


def _delete_rest(
    store: Store, fingerprint: str, manifest: Manifest, before: Iterable[str], moved: set[str]
) -> None:
    """Delete what is not read under this manifest, which was created after the parts `before` were
    listed; `moved` are the units whose files went into it.
    """
    folder = store.parts(fingerprint)
    files = store.unit_files(fingerprint)
    if gone := moved - files.keys():
        manifest = manifest.without(gone)
        if not folder.put(manifest):  # others delete now: what is gone may be in their parts
            return
    named = {part.name for part in manifest.parts}
    nameless = [name for name in before if PART_NAME.fullmatch(name) and name not in named]
    uris = [folder.uri(name) for name in nameless]
    uris += [
        store.unit_uri(fingerprint, name)
        for name, part in manifest.part_of.items()
        if files.get(name) == part.units[name]
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda uri: delete(uri, store.endpoint), uris))


class Writer:
    """Writes rows of units into parts."""

    def __init__(self, store: Store, fingerprint: str):
        self.store, self.fingerprint = store, fingerprint
        self.piles: dict[Kind, Pile] = {}
        self.parts: list[Part] = []  # written, but for their versions
        self.from_files: set[str] = set()  # names of units

    def add_part(self, part: Part, laid: Laid) -> bool:
        """Add the rows of a part that count; whether it is now no longer needed."""
        place = f"{self.store.parts(self.fingerprint).place}/{part.name}"
        names = {name: v for name, v in part.units.items() if laid.in_part.get(name) is part}
        try:
            _, rows = self.store.open_scores(place)
        except FileNotFoundError:  # others have it no longer either: its units are scored again
            return True
        except StoreError as e:
            warn_once(f"{e}; left as it is")
            return False
        is_wanted = pc.is_in(rows["unit"].cast(pa.string()), pa.array(names, pa.string()))
        rows = with_hashes(rows.filter(is_wanted), HASHED.keys() - {*rows.column_names})
        self._add(part.mark, rows, names)
        return True

    def add_units(self, files: dict[str, str]) -> None:
        """Add units that have a file, with its version; one that is gone or broken is left out."""
        names = list(files)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for i in range(0, len(names), 16 * AT_ONCE):
                some = names[i : i + 16 * AT_ONCE]
                for name, found in zip(some, pool.map(self._read, some), strict=True):
                    if found is not None:
                        self.from_files.add(name)
                        self._add(*found, {name: files[name]})

    def _read(self, name: str) -> tuple[str | None, pa.Table] | None:
        try:
            mark, rows = self.store.open_unit(self.fingerprint, name)
        except FileNotFoundError:
            return None
        except StoreError as e:
            warn_once(f"{e}; left as it is")
            return None
        return mark, with_unit(with_hashes(rows, HASHED), name)

    def _add(self, mark: str | None, rows: pa.Table, units: dict[str, str]) -> None:
        kind = mark, tuple(rows.column_names)
        if kind in self.piles and len(rows) and self.piles[kind].n_rows >= PART_ROWS:
            self._write(kind)
        pile = self.piles.setdefault(kind, Pile())
        pile.tables.append(rows)
        pile.units |= units
        pile.n_rows += len(rows)

    def _write(self, kind: Kind) -> None:
        pile = self.piles.pop(kind)
        rows = pa.concat_tables(pile.tables).unify_dictionaries().combine_chunks()
        folder = self.store.parts(self.fingerprint)
        name = f"{uuid4().hex}.parquet"
        data = part_bytes(rows, f"{folder.place}/{name}", pile.units, kind[0])
        put(folder.uri(name), data, self.store.endpoint)
        self.parts.append(described(name, "", data, pile.units, kind[0]))

    def finish(self) -> list[Part]:
        """Write what is left; all parts, without their versions."""
        for kind in [kind for kind, pile in self.piles.items() if pile.units]:
            self._write(kind)
        return self.parts
