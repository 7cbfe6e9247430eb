"""lacking: what units of a corpus in the store lack of what is asked for beside their scores."""

import functools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rsr_ray.errors import counted
from rsr_ray.run.counts import Added
from rsr_ray.store.beside import Beside, Generation
from rsr_ray.store.store import Store
from rsr_ray.store.units import UNIT_NAME, n_rows, named, settle_units


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """What units lack, by their names, and what is known of all that were looked at."""

    units: dict[str, Beside] = field(default_factory=dict)
    n_known: int = 0  # rows of those that were looked at
    has_tokens: frozenset[str] = frozenset()  # those that have token scores
    marks: dict[str, str] = field(default_factory=dict)  # what files say, where that was read

    @property
    def needs_student(self) -> bool:
        """Whether something is missing that token scores in the store do not tell."""
        return not self.units.keys() <= self.has_tokens

    @property
    def what(self) -> str:
        return functools.reduce(Beside.__or__, self.units.values()).words

    @property
    def what_to_what(self) -> str:
        """What is to be added, and to how much; "" for nothing."""
        if not self.units:
            return ""
        rows = f"{n_rows(self.units):,} of {self.n_known:,} trajectories in the store"
        how = "" if self.needs_student else ", from their token scores"
        return f"{self.what} to {rows}{how}"

    def notes(self, told: Iterable[str], added: Added) -> list[str]:
        """What came of it, a sentence each; `told` are the units that were looked at again."""
        if not self.units:
            return []
        of = counted(added.trajectories, "scored trajectory", "scored trajectories")
        said = [f"Added {self.what} to {of}; their scores are unchanged"]
        if added.other_sums:
            said.append(
                f"The token scores of {added.other_sums:,} of them add up to sums that differ from "
                f"the stored ones by up to {added.off:.1g} of their size, because other batches or "
                "another machine round differently. The stored sums are kept"
            )
        if added.other_ranks:
            said.append(
                f"ATTENTION: the token ranks of {added.other_ranks:,} of them add up to other sums "
                "than the stored ones, because near ties fell differently. The stored sums are "
                "kept, and rankings follow them"
            )
        if added.problems:
            units = counted(len(added.problems), "unit")
            said.append(f"Nothing was added to {units}, for example {added.problems[0]}")
        if unread := self.units.keys() - {*told}:
            said.append(
                f"Nothing was added to {counted(len(unread), 'unit')} whose rows could not be read "
                f"again: {named(unread)}"
            )
        return said


def find_lacking(
    store: Store,
    generation: Generation,
    asked: Beside,
    units: Iterable[str],
    shards: Iterable[tuple[str, str]],
    marks: Mapping[str, str],
) -> Lacking:
    """What those of a generation's units lack that are of these shards, by key and version.

    `marks` are what is known of what units have; of others the files are read. Opens no file for
    token scores.
    """
    wanted, units = {*shards}, [*units]
    counting = sorted({*units} - {*settle_units(units)[1]})
    names = [name for name in counting if shard_of(name) in wanted and n_rows([name])]
    if not asked or not names:
        return Lacking()
    has_tokens = store.token_units(generation.fingerprint)
    learned = {}
    if asked.has_sums:
        unknown = [name for name in names if name not in marks]
        learned = _read_marks(store, generation, unknown)
    known = {**marks, **learned}
    lacking = {}
    for name in names:
        mark = known.get(name, generation.kept.mark)
        has = Beside.of_mark(mark, token_scores=name in has_tokens)
        if missing := asked.missing(has):
            lacking[name] = missing
    return Lacking(
        units=lacking, n_known=n_rows(names), has_tokens=frozenset(has_tokens), marks=learned
    )


def _read_marks(store: Store, generation: Generation, names: list[str]) -> dict[str, str]:
    """What units say that they have; one that is gone meanwhile is left out."""
    fingerprint = generation.fingerprint
    in_part = store.laid(fingerprint).in_part if names else {}

    def read(name: str) -> str | None:
        if name in in_part:
            return in_part[name].mark or generation.kept.mark
        try:
            return store.read_mark(fingerprint, name) or generation.kept.mark
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(16) as pool:
        found = zip(names, pool.map(read, names), strict=True)
        return {name: mark for name, mark in found if mark}


def shard_of(name: str) -> tuple[str, str]:
    """Key and version of the object that a unit is of."""
    unit = UNIT_NAME.fullmatch(name)
    assert unit
    return unit["key"], unit["version"]
