"""Work units by their names: which rows each holds, what is done, what a table was made of."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rsr_ray.files.objects import InputObject
from rsr_ray.store import seal
from rsr_ray.store.manifest import part_at

UNIT_NAME = re.compile(
    r"(?P<key>[0-9a-f]{16})-(?P<version>[0-9a-f]{12}(?P<reading>-[0-9a-f]{12})?)"
    r"-(?P<start>\d{10})-(?P<stop>\d{10})(?P<last>-last)?\.parquet"
)
AS_IT_IS = 6 * "0"  # the half of a reading that no option says
FINGERPRINT = re.compile(r"[0-9a-f]{1,64}")
NAMED = 3  # files that a line names before it only counts


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


@dataclass(frozen=True)
class Listing:
    """What lies in the folder of a student's scores, or tokens."""

    # by fingerprint: names of units, each with the version of its file
    units: dict[str, dict[str, str]]
    strays: tuple[str, ...]  # paths of all else: never read, never deleted

    @classmethod
    def of(cls, files: Mapping[str, str]) -> "Listing":
        """Of paths below the folder, with their versions."""
        units: dict[str, dict[str, str]] = defaultdict(dict)
        strays = []
        for path, version in sorted(files.items()):
            if at := unit_at(path):
                units[at[0]][at[1]] = version
            elif not part_at(path):
                strays.append(path)
        return cls(dict(units), tuple(strays))


def unit_at(path: str) -> tuple[str, str] | None:
    """Fingerprint and name of the unit at a path below the scores; None for no unit's place."""
    fingerprint, _, rest = path.partition("/")
    digit, _, name = rest.partition("/")
    is_place = FINGERPRINT.fullmatch(fingerprint) and UNIT_NAME.fullmatch(name) and digit == name[0]
    return (fingerprint, name) if is_place else None


def store_of(uri: str) -> str | None:
    """The store that a file with rows of units, scores or tokens, lies in; None for another."""
    root, mark, rest = uri.rpartition("/student=")
    above, _, kind = root.rpartition("/")
    below = rest.partition("/")[2]
    is_unit = mark and kind in ("scores", "tokens") and (unit_at(below) or part_at(below))
    return above if is_unit else None


@dataclass(frozen=True)
class MadeOf:
    """The units that a table was made of, each with the version of its file, "" where untold."""

    units: dict[str, str]
    # by name, of those whose files were read for it, what they say they have (beside.py)
    marks: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, units: Iterable[str] | Mapping[str, str], marks: Mapping[str, str] | None = None
    ) -> "MadeOf":
        """Of names with versions, or of names only."""
        of_units = dict(units) if isinstance(units, Mapping) else dict.fromkeys(units, "")
        return cls(of_units, {n: mark for n, mark in (marks or {}).items() if n in of_units})

    def known_marks(self, units: Mapping[str, str]) -> dict[str, str]:
        """Those of the units that are still what the table was made of, given their versions."""
        return {n: m for n, m in self.marks.items() if self.units.get(n) == units.get(n)}

    def packed(self) -> str:
        return seal.pack([f"{name} {version}" for name, version in sorted(self.units.items())])

    def packed_marks(self) -> str:
        return seal.pack([f"{name} {mark}" for name, mark in sorted(self.marks.items())])

    @classmethod
    def unpacked(cls, text: bytes, marks: bytes | None = None) -> "MadeOf":
        """Raises ValueError."""
        return cls(
            dict(line.split(" ", 1) for line in seal.unpack(text)),
            dict(line.split(" ", 1) for line in seal.unpack(marks)) if marks else {},
        )

    def differences(self, names: Collection[str]) -> list[str]:
        """In a sentence each: which of these units are gone, and which more there are.

        `names` are those that the store has.
        """
        if not self.units:
            return []
        missing, more = (
            sorted(self.units.keys() - set(names)),
            sorted(set(names) - self.units.keys()),
        )
        said = []
        if missing:
            what = (
                f"{len(missing):,} of the {len(self.units):,} units that the teachers table was "
                "made from are missing from the store"
            )
            said.append(
                f"{what}, and with them up to {n_rows(missing):,} rows: {named(missing)}; run "
                "rsr-ray score again to restore them"
            )
        if more:
            what = f"{len(more):,} units in the store are not in the teachers table yet"
            said.append(
                f"{what}, up to {n_rows(more):,} rows: {named(more)}; the next run of rsr-ray "
                "score adds them"
            )
        return said


def written_ns(version: str) -> int:
    """When a unit's file was written, nanoseconds since 1970, as its version says; 0: untold."""
    time = version.partition("@")[0].partition(":")[2]
    return int(time) if time.isdigit() else 0


def named(names: Collection[str]) -> str:
    """The first few of some files, and how many more there are."""
    first = sorted(names)[:NAMED]
    return ", ".join(first) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def n_rows(names: Iterable[str]) -> int:
    """Rows in units, rejects included."""
    return sum(
        int(unit["stop"]) - int(unit["start"])
        for name in names
        if (unit := UNIT_NAME.fullmatch(name))
    )


def unit_name(unit: Mapping[str, Any]) -> str:
    last = "-last" if unit["last"] else ""
    return f"{unit['key']}-{unit['version']}-{unit['start']:010d}-{unit['stop']:010d}{last}.parquet"


def settle_units(names: list[str]) -> tuple[dict[tuple[str, str], Done], list[str]]:
    """What units hold, by (key, version) of the input object, and names of those that repeat rows.

    Runs that cut units of different sizes at the same time can leave the same row in two of them.
    Of units that overlap, the one that starts first stays, the longer before the shorter; rows that
    only the others hold are then missing.
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
    return {
        name: now[name[:16]]
        for name in names
        if name[:16] in now and name[17:29] != now[name[:16]].version
    }


def reading_of(name: str) -> str:
    """How the rows of a unit were read, as its name says; "" where no option said it."""
    unit = UNIT_NAME.fullmatch(name)
    return (unit and unit["reading"]) or ""


def is_superseded(old: str, new: str) -> bool:
    """Whether rows read in the old way are what the new way reads, put right.

    They are others where both name a teacher, and other ones, and read other columns: two
    teachers' answers that lie side by side in a row.
    """
    if old == new:
        return False
    teachers, columns = {old[1:7], new[1:7]}, {old[7:], new[7:]}
    both_named = not teachers & {"", AS_IT_IS}
    return not (both_named and len(teachers) == 2 and len(columns) == 2)


def stale_units(names: list[str], objects: list[InputObject], reading: str = "") -> list[str]:
    """Names of units that a finished rescoring of their object has replaced.

    They are of earlier versions, or of a reading that was put right, of objects of which the
    present version in the present `reading` is scored whole.
    """
    outdated = outdated_units(names, objects)
    now = {obj.key: obj for obj in objects}
    reread = {
        n: now[n[:16]] for n in names if n[:16] in now and is_superseded(reading_of(n), reading)
    }
    gone = {**outdated, **reread}
    keys = {obj.key for obj in gone.values()}
    done, _ = settle_units([name for name in names if name[:16] in keys])
    whole = {
        key
        for (key, version), state in done.items()
        if state.whole and version == now[key].version + reading
    }
    return [name for name, obj in gone.items() if obj.key in whole]
