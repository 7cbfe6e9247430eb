"""summary: the teachers table of very many rows, with what else is kept of them, in one reading.

On the night after, only what is new is read whole. Of the other rows their hashes are read, and of
those the prompts that new rows answer, or hold the same row as one of them: what these prompts came
to is taken out of the sums, and what they come to now is added. All rows are read again where units
are gone or were replaced, for new teachers, for very many new rows, and where a number of those
that are kept is no longer known. Legend: N rows, T teachers.
"""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rsr_ray.decide.buckets import READERS, Bucket, Buckets
from rsr_ray.decide.ends import Ends
from rsr_ray.decide.kept import (
    NUMBERS,
    Kept,
    asked,
    find_kept,
    named_by,
    renumbered,
    write_kept,
)
from rsr_ray.decide.whole import Sums
from rsr_ray.metrics import RSR
from rsr_ray.run.medians import Middle, ValueFiles, as_arrays, of_arrays
from rsr_ray.run.table_sums import SUMMED, TableSums, Totals
from rsr_ray.store.parts import among
from rsr_ray.store.rejects import add_reject, rejects_of
from rsr_ray.store.score_files import ScoreFile, units_of
from rsr_ray.store.store import Store
from rsr_ray.store.units import n_rows

MOST_NEW = 0.1  # of the rows that are known
HASHES = ["prompt_hash", "row_hash", "id_hash", "reject_reason"]
OF_NEW = [*HASHES, "teacher", "trajectory_id", "source", "source_row", "reject_detail"]
READ = list(dict.fromkeys([*SUMMED, *NUMBERS]))


def summed_up(store: Store, fingerprint: str, units: Mapping[str, str]) -> list[Totals]:
    """What each teacher's row of TEACHERS is made of; `units` have the versions of their files.

    What a night needs besides is kept in the store. Raises as `Store.read_score_file`.
    """
    files = store.score_files(fingerprint, units)
    before = find_kept(store, fingerprint)
    kept = before and _brought_up(before, store, units_of(files), files)
    if kept is None:
        kept = _made_anew(store, fingerprint, files)
    if kept is not before:
        write_kept(store, kept)
    table, middles = _table_of(kept)
    return table.totals(kept.teachers, [middle.median for middle in middles])


def _table_of(kept: Kept) -> tuple[TableSums, list[Middle]]:
    middles = {n.partition("/")[2]: some for n, some in kept.table.items() if n[0] == "m"}
    sums = {n: some for n, some in kept.table.items() if n[0] != "m"}
    return TableSums.of_arrays(sums, len(kept.teachers)), list(of_arrays(middles))


def _as_table(table: TableSums, middles: list[Middle]) -> dict[str, np.ndarray]:
    return table.arrays() | {f"middles/{n}": some for n, some in as_arrays(middles).items()}


def _made_anew(store: Store, fingerprint: str, files: list[ScoreFile]) -> Kept:
    """What all rows of some files come to."""
    with Buckets(store, fingerprint, READ, rejects=True) as buckets, ValueFiles() as values:
        buckets.fill(files)
        n_teachers = len(buckets.names["teacher"])
        table, sums = TableSums(n_teachers), Sums(asked(), n_teachers)
        for bucket in buckets:
            values.add(*table.add(bucket, buckets.names["reject_reason"]))
            sums.add(_scored(bucket))
        while (own := sums.views.settled) and len(own[0]):
            sums = Sums(asked(), n_teachers, own)
            for bucket in buckets:
                sums.add(_scored(bucket))
        table.sums["is_repeated_id"] = buckets.n_repeated_ids
        middles = [Middle.of(values.of(t)) for t in range(n_teachers)]
        return Kept(
            fingerprint=fingerprint,
            units=units_of(files),
            names=named_by(sums.found.ends.rows, buckets.names),
            sums=sums.arrays(),
            table=_as_table(table, middles),
            repeats=buckets.repeats,
            ends=_renamed(sums.found.ends.rows, buckets.names),
            rejects=store.count_rejects(fingerprint, files),
        )


def _renamed(ends: np.ndarray, names: Mapping[str, list[str]]) -> np.ndarray:
    """Ends with the numbers of their own names."""
    own = named_by(ends, names)
    rows = ends.copy()
    for name, texts in own.items():
        place = {text: i for i, text in enumerate(texts)}
        rows[name] = [place[names[name][i]] for i in ends[name].tolist()]
    return rows


def _scored(bucket: Bucket) -> Bucket:
    """The rows of a bucket that were scored, each once."""
    return bucket.where(bucket.is_first & (bucket.rows["reject_reason"] < 0))


# --- what is new ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Touched:
    """What new rows have to do with those that are known; hashes are sorted int64."""

    prompts: np.ndarray  # that have to be added up again
    rows: np.ndarray  # of the new rows
    repeated_ids: np.ndarray  # int64 [T]: more trajectories that share an id


def _brought_up(
    kept: Kept, store: Store, units: Mapping[str, str], files: list[ScoreFile]
) -> Kept | None:
    """What is kept, with these units, which are in these files; None where all has to be read."""
    fresh = units.keys() - kept.units.keys()
    if kept.units.items() - units.items() or n_rows(fresh) > MOST_NEW * n_rows(kept.units):
        return None
    if not fresh:
        return kept
    known, new = _only(files, kept.units), _only(files, fresh)
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda f: store.read_score_file(kept.fingerprint, f, OF_NEW), new)
        rows = pa.concat_tables(read).unify_dictionaries()
    found = _find_touched(kept, store, known, rows)
    if found is None:
        return None
    touched, has_some = found
    some = [file for file, has in zip(known, has_some, strict=True) if has]
    after = _exchanged(kept, store, [*some, *new], touched)
    rejects = dict(kept.rejects)
    for reason, more in rejects_of(rows).items():
        add_reject(rejects, reason, more)
    return after and replace(after, units=units, rejects=rejects)


def _only(files: list[ScoreFile], names: Collection[str]) -> list[ScoreFile]:
    """The files with only these of their units."""
    found = []
    for file in files:
        pairs = zip(file.units, file.versions, strict=True)
        if some := [(name, version) for name, version in pairs if name in names]:
            own, versions = zip(*some, strict=True)
            found.append(replace(file, units=own, versions=versions))
    return found


def _find_touched(
    kept: Kept, store: Store, known: list[ScoreFile], new: pa.Table
) -> tuple[Touched, list[bool]] | None:
    """What these new rows have to do with those in known files, and which of these have rows of
    touched prompts. None where there is a teacher that is not known.
    """
    place = {name: t for t, name in enumerate(kept.teachers)} | {None: -1}
    names = new["teacher"].to_pylist()
    if {*names} - place.keys():
        return None
    prompt, row, by_id, scored = _hashes(new)
    prompts, rows = np.unique(prompt), np.unique(row)
    ids, first = np.unique(by_id, return_index=True)

    def look(file: ScoreFile) -> tuple[bool, np.ndarray, np.ndarray]:
        found = store.read_score_file(kept.fingerprint, file, HASHES)
        prompt, row, by_id, scored = _hashes(found)
        same = among(by_id, ids) & scored
        pairs = np.stack([by_id[same], row[same]])
        return bool(among(prompt, prompts).any()), prompt[among(row, rows)], pairs

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(look, known))
    of_rows = np.concatenate([prompts, *(some for _, some, _ in found)])
    more = np.setdiff1d(of_rows, prompts)
    pairs = np.concatenate([np.empty((2, 0), np.int64), *(some for _, _, some in found)], axis=1)
    repeated = _repeated(np.c_[pairs, np.stack([by_id[scored], row[scored]])], ids)
    repeated -= _repeated(pairs, ids)
    teacher = np.array([place[names[i]] for i in first.tolist()])
    of_ids = np.zeros(len(kept.teachers), np.int64)
    np.add.at(of_ids, teacher[teacher >= 0], repeated[teacher >= 0])  # without one: rejected
    touched = Touched(np.union1d(prompts, more), rows, of_ids)
    return touched, [has or bool(len(more)) for has, _, _ in found]


def _hashes(table: pa.Table) -> list[np.ndarray]:
    """Of the prompts, rows and ids of rows, int64 [N], and which rows were scored."""
    scored = table["reject_reason"].is_null().to_numpy()
    return [*(table[name].to_numpy() for name in HASHES[:3]), scored]


def _repeated(pairs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each id how many further rows have it, int64 [ids]; `pairs` [2, N] are ids and rows."""
    order = np.lexsort(pairs[::-1])
    by_id, row = pairs[:, order]
    first = np.ones(len(by_id), bool)
    first[1:] = (by_id[1:] != by_id[:-1]) | (row[1:] != row[:-1])
    n = np.bincount(np.searchsorted(ids, by_id[first]), minlength=len(ids))
    return np.maximum(n - 1, 0)


@dataclass(frozen=True)
class Added:
    """What some prompts come to."""

    table: TableSums
    sums: Sums
    values: list[np.ndarray]  # rsr, of each teacher

    @classmethod
    def of(cls, buckets: Iterable[Bucket], reasons: list[str], sums: Sums) -> "Added":
        """Of all rows of them; `sums` are empty."""
        table = TableSums(sums.n_teachers)
        pairs = [(np.empty(0, np.int64), np.empty(0))]
        for bucket in buckets:
            pairs.append(table.add(bucket, reasons))
            sums.add(_scored(bucket))
        teacher, values = (np.concatenate(some) for some in zip(*pairs, strict=True))
        return cls(table, sums, [values[teacher == t] for t in range(sums.n_teachers)])


def _exchanged(kept: Kept, store: Store, files: list[ScoreFile], touched: Touched) -> Kept | None:
    """What is kept, with what the touched prompts come to now in place of what they came to; None
    where that is not known.
    """
    sums = kept.sums_of()
    table, middles = _table_of(kept)
    with Buckets(store, kept.fingerprint, READ, rejects=True, known=kept.names) as buckets:
        buckets.fill(files, touched.prompts)
        names, reasons = buckets.names, buckets.names["reject_reason"]
        gone = Added.of(buckets.each(kept.repeats, kept.units), reasons, sums.empty())
        is_new = among(buckets.repeats["row_hash"], touched.rows)
        is_old = ~among(kept.repeats["row_hash"], touched.rows)
        repeats = np.concatenate([kept.repeats[is_old], buckets.repeats[is_new]])
        come = Added.of(buckets.each(repeats), reasons, sums.empty())
    sums.exchange(gone.sums, come.sums)
    table.exchange(gone.table, come.table)
    table.sums["is_repeated_id"] += touched.repeated_ids
    now = [m.exchange(*v) for m, *v in zip(middles, gone.values, come.values, strict=True)]
    ends = Ends.of(RSR, renumbered(kept.ends, kept.names, names))
    is_known = ends.exchange(touched.prompts, come.sums.found.ends)
    if not is_known or sums.views.settled or not all(now):
        return None
    return replace(
        kept,
        names=named_by(ends.rows, names),
        sums=sums.arrays(),
        table=_as_table(table, [middle for middle in now if middle]),
        repeats=repeats,
        ends=_renamed(ends.rows, names),
    )
