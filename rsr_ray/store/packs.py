"""packs: many small files of a corpus, read and stored as if they were one.

A pack is named by what is in it: URIs and versions of whole files. So it never changes, and what
the store holds of it is counted as of any other object. Which files they are stands in a record
beside the scores, packs/student=<name>/<key>.json, which is there before the first unit. Where one
of them is replaced the pack no longer counts: its other files go into new packs, and its units are
deleted once all of these are scored.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rsr_ray.files.objects import InputObject, delete, list_files
from rsr_ray.store.records import find_record, put_record
from rsr_ray.store.store import Store
from rsr_ray.store.units import UNIT_NAME

SMALL = 64 * 1024  # bytes of a file that may go into a pack
FEWEST = 64  # small files that are not scored yet, from which on they go into packs
FILES, BYTES = 256, 4 * 1024 * 1024  # at most in a pack
GONE = "0" * 12  # a version that no pack has


@dataclass(frozen=True, kw_only=True)
class Pack(InputObject):
    """Small files as one object of the corpus: its rows are theirs, one file after the other."""

    members: tuple[InputObject, ...] = ()

    @classmethod
    def of(cls, members: Iterable[InputObject]) -> "Pack":
        members = tuple(sorted(members, key=lambda obj: obj.uri))
        named = json.dumps([[obj.uri, obj.version] for obj in members])
        digest = hashlib.sha256(named.encode()).hexdigest()
        return cls(
            uri=f"pack:{digest}",
            version=digest[:12],
            size=sum(obj.size for obj in members),
            members=members,
        )

    def as_of(self, now: Mapping[str, InputObject]) -> "Pack":
        """The pack as it is now: of another version where one of its files was replaced."""
        same = all(now[obj.uri].version == obj.version for obj in self.members if obj.uri in now)
        return self if same else dataclasses.replace(self, version=GONE)


def files_of(objects: Iterable[InputObject]) -> list[InputObject]:
    """The files that objects are, those in packs by themselves."""
    return [file for obj in objects for file in (obj.members if isinstance(obj, Pack) else (obj,))]


def stored_packs(store: Store, keys: set[str]) -> list[Pack]:
    """The store's packs of these keys, sorted by key; a broken record is named and left out."""
    places = [
        f"{_folder(store)}/{name}"
        for name in pack_names(store)
        if name.removesuffix(".json") in keys
    ]
    with ThreadPoolExecutor(16) as pool:
        records = pool.map(
            lambda place: find_record(store.uri, place, ("members",), store.endpoint),
            sorted(places),
        )
        return [
            Pack.of(
                InputObject(uri=uri, version=version, size=size)
                for uri, version, size in record["members"]
            )
            for record in records
            if record
        ]


def pack_names(store: Store) -> list[str]:
    """Names of the records of a store's packs. Opens no file."""
    return [
        name
        for name in list_files(f"{store.uri}/{_folder(store)}", store.endpoint)
        if name.endswith(".json")
    ]


def find_packs(
    objects: Sequence[InputObject], store: Store, units: Iterable[str]
) -> tuple[list[Pack], list[Pack]]:
    """Of the packs that the store has units of: those that count now, and those that no longer do.

    A pack of which no file is in the corpus is neither.
    """
    now = {obj.uri: obj for obj in objects}
    counting, superseded, taken = [], [], set[str]()
    for pack in stored_packs(store, {name[:16] for name in units}):
        uris = {obj.uri for obj in pack.members}
        if not uris & now.keys():
            continue
        if pack.as_of(now) != pack or uris & taken:
            superseded.append(pack)
        else:
            counting.append(pack)
            taken |= uris
    return counting, superseded


def pack_up(
    objects: Sequence[InputObject], store: Store, units: list[str]
) -> tuple[list[InputObject], list[Pack]]:
    """A corpus with its small files in packs: the store's, and new ones of files it has nothing of.

    The second are packs that no longer count. Records of new packs are written.
    """
    counting, superseded = find_packs(objects, store, units)
    taken = {file.uri for file in files_of(counting)}
    alone = {
        (unit["key"], unit["version"][:12]) for name in units if (unit := UNIT_NAME.fullmatch(name))
    }
    left = [obj for obj in objects if obj.uri not in taken]
    small = [obj for obj in left if obj.size <= SMALL and (obj.key, obj.version) not in alone]
    new = [Pack.of(some) for some in _groups(small)] if len(small) >= FEWEST else []
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda pack: _write(store, pack), new))
    packed = {file.uri for file in files_of(new)}
    return [*(obj for obj in left if obj.uri not in packed), *counting, *new], superseded


def drop_packs(store: Store, packs: Iterable[Pack]) -> None:
    """Delete the records of packs whose units are gone."""
    for pack in packs:
        delete(f"{store.uri}/{_place(store, pack)}", store.endpoint)


def _groups(files: Sequence[InputObject]) -> list[list[InputObject]]:
    groups: list[list[InputObject]] = []
    size = 0
    for file in sorted(files, key=lambda obj: obj.uri):
        if not groups or len(groups[-1]) == FILES or size + file.size > BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size
    return groups


def _write(store: Store, pack: Pack) -> None:
    members = [[obj.uri, obj.version, obj.size] for obj in pack.members]
    put_record(store.uri, _place(store, pack), {"members": members}, store.endpoint)


def _folder(store: Store) -> str:
    return f"packs/student={store.student_name}"


def _place(store: Store, pack: Pack) -> str:
    return f"{_folder(store)}/{pack.key}.json"
