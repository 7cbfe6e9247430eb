"""manifest: which units of a student have their score rows in part files, and in which.

    scores/student=<name>/<fingerprint>/parts/<number>.json    the manifest; the highest counts
    scores/student=<name>/<fingerprint>/parts/<hex>.parquet    a part

A part is never written again. What it holds that counts is what the manifest says, so one object
decides, and it is replaced in one step: the next number is created, which a store lets only one of
many do. Whoever replaces it deletes those before.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rsr_ray.errors import StoreError
from rsr_ray.files.objects import create, delete, get, list_versions
from rsr_ray.store import seal
from rsr_ray.store.records import broken, get_record

FOLDER = "parts"
NUMBERED = re.compile(r"\d{12}\.json")
PART_NAME = re.compile(r"[0-9a-f]{32}\.parquet")
UNITS_KEY = "units"  # in a part's metadata: the units it was made of, as a manifest has them
TRIES = 20  # a manifest is replaced meanwhile


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file with the rows of many units that have the same beside their scores."""

    name: str
    version: str  # its size and time
    footer: str  # digest of its last `footer_size` bytes
    footer_size: int
    checks: str  # CRC-32 of each column of each row group, base64
    n_rows: int
    n_units: int  # that it was made of
    mark: str | None  # what these have beside their scores (beside.py)
    units: Mapping[str, str]  # those whose rows count: names, with the versions of their files

    @property
    def size(self) -> int:
        return int(self.version.partition(":")[0])

    @property
    def is_whole(self) -> bool:
        """Whether all its rows count."""
        return len(self.units) == self.n_units

    def without(self, names: Iterable[str]) -> "Part":
        gone = {*names}
        return replace(self, units={n: v for n, v in self.units.items() if n not in gone})

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"units": pack_units(self.units)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Part":
        """Raises ValueError, KeyError, TypeError."""
        return cls(**{**found, "units": unpack_units(found["units"])})


@dataclass(frozen=True)
class Manifest:
    """The parts of a fingerprint."""

    number: int = 0  # 0: there is none
    parts: tuple[Part, ...] = ()

    @cached_property
    def part_of(self) -> dict[str, Part]:
        """By the names of units."""
        return {name: part for part in self.parts for name in part.units}

    def without(self, names: Iterable[str]) -> "Manifest":
        """Rows of these units no longer count; a part that has no others is left out."""
        gone = {*names} & self.part_of.keys()
        if not gone:
            return self
        parts = [p.without(gone) if gone & p.units.keys() else p for p in self.parts]
        return Manifest(self.number, tuple(part for part in parts if part.units))


@dataclass(frozen=True)
class Laid:
    """Where the units of a fingerprint lie. A unit's file counts before what a part has of it,
    unless it is the one that went into the part, which its version says.
    """

    files: Mapping[str, str]  # names of units that have a file, with its version
    manifest: Manifest
    parts: Mapping[str, str]  # what lies in the folder of parts, with versions

    @cached_property
    def in_part(self) -> dict[str, Part]:
        """Names of the units whose rows are read from a part."""
        return {
            name: part
            for name, part in self.manifest.part_of.items()
            if part.name in self.parts
            and (name not in self.files or self._version(name, part) == self.files[name])
        }

    @cached_property
    def units(self) -> dict[str, str]:
        """Names of all units, sorted, with versions: that of the file a unit has or had."""
        of_parts = {name: self._version(name, part) for name, part in self.in_part.items()}
        return dict(sorted({**self.files, **of_parts}.items()))

    def _version(self, name: str, part: Part) -> str:
        """Another where the part is no longer the file that was written."""
        now = self.parts[part.name]
        return part.units[name] + (f"@{now}" if now != part.version else "")


@dataclass(frozen=True)
class Folder:
    """The folder of a fingerprint's parts."""

    store: str
    place: str  # below the store
    endpoint: str | None

    def uri(self, name: str) -> str:
        return f"{self.store}/{self.place}/{name}"

    def files(self) -> dict[str, str]:
        """What lies there, with versions."""
        return list_versions(f"{self.store}/{self.place}", self.endpoint)

    def read(self) -> tuple[Manifest, dict[str, str]]:
        """The manifest, and the files that lie there.

        A part that is not among them was not there after the manifest was read. Raises StoreError
        where the manifest is not what was written.
        """
        manifest = Manifest()
        for _ in range(TRIES):
            files = self.files()
            number = highest(files)
            known = number == manifest.number
            if known and number:
                return manifest, files
            manifest = self._get(number)
            if manifest.number == number and all(part.name in files for part in manifest.parts):
                return manifest, files
        raise StoreError(f"store folder {self.uri('')}: it changes too fast to be read; try again")

    def _get(self, number: int) -> Manifest:
        """The manifest of a number; that of no number where it was replaced meanwhile."""
        if not number:
            return Manifest()
        place = f"{self.place}/{_name(number)}"
        try:
            found = get_record(self.store, place, ("parts",), self.endpoint)
            return Manifest(number, tuple(map(Part.from_json, found["parts"])))
        except FileNotFoundError:
            return Manifest(-1)
        except (ValueError, KeyError, TypeError) as e:
            raise broken(self.store, place, "the list of its units cannot be read") from e

    def put(self, manifest: Manifest) -> bool:
        """Write the manifest that follows the one of its number; whether it counts now.

        Where it does not, another was written since that one was read.
        """
        name = _name(manifest.number + 1)
        place = f"{self.place}/{name}"
        record = {"parts": [part.to_json() for part in manifest.parts]}
        data = seal.write_record(record, place)
        # A store that ignores the condition lets several win: then the last one has.
        if not create(self.uri(name), data, self.endpoint) or self._is_other(name, data):
            return False
        files = self.files()
        if highest(files) > manifest.number + 1:  # others came, went and cleared the number away
            delete(self.uri(name), self.endpoint)
            return False
        for old in files:
            if NUMBERED.fullmatch(old) and old < name:
                delete(self.uri(old), self.endpoint)
        return True

    def _is_other(self, name: str, data: bytes) -> bool:
        try:
            return get(self.uri(name), self.endpoint) != data
        except FileNotFoundError:  # another followed it already, and so it counted
            return False

    def change(self, change: Callable[[Manifest], Manifest]) -> None:
        """Put what `change` makes of the manifest, again where another came first."""
        for _ in range(TRIES):
            before = self.read()[0]
            after = change(before)
            if after is before or self.put(after):
                return
        raise StoreError(f"store folder {self.uri('')}: others keep replacing its manifest")


def part_at(path: str) -> bool:
    """Whether a path below the scores is that of a part or a manifest, as its form says."""
    _, _, rest = path.partition("/")
    folder, _, name = rest.partition("/")
    return folder == FOLDER and bool(PART_NAME.fullmatch(name) or NUMBERED.fullmatch(name))


def pack_units(units: Mapping[str, str]) -> str:
    return seal.pack([f"{name} {version}" for name, version in sorted(units.items())])


def unpack_units(text: str) -> dict[str, str]:
    """Raises ValueError."""
    return dict(line.split(" ", 1) for line in seal.unpack(text.encode()))


def _name(number: int) -> str:
    return f"{number:012d}.json"


def highest(files: Iterable[str]) -> int:
    """The number of the manifest that counts, of the files in a folder; 0 without one."""
    numbers = (int(name.removesuffix(".json")) for name in files if NUMBERED.fullmatch(name))
    return max(numbers, default=0)
