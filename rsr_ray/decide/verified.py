"""verified: which of the scored trajectories the corpus calls right, read from its shards."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from rsr_ray.corpus.verdicts import columns_read, says, scored_rows
from rsr_ray.decide.loading import READERS
from rsr_ray.decide.reread import readings_of, way_of
from rsr_ray.decide.scored import Scored
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject, version_of
from rsr_ray.store.packs import stored_packs
from rsr_ray.store.store import Store


class Shard(NamedTuple):
    """A shard as it was scored."""

    source: str
    version: str
    way: str  # in which it was read: see `way_of`


def read_verdicts(store: Store, scored: Scored, column: str) -> np.ndarray:
    """What a column of the corpus, or a path into one, says of each of a store's trajectories.

    float64 [N]: 1 for right, 0 for wrong, NaN where it says nothing. Raises UserError if it says
    nothing of any, or something else of one, and if a shard is not as it was scored.
    """
    shards = _shards(store, scored)
    ways = {shard.way for shard in shards}
    readings = readings_of(store, ways)
    if ways - {*readings}:
        raise UserError(
            f"--verified: store {store.uri} lacks the record of the run with the --columns or "
            "--roles of some rows, which are needed to read them again: score the corpus into a "
            "new store"
        )
    source_row = scored.rows["source_row"].to_numpy()
    verdicts = np.full(len(source_row), np.nan)

    def read(shard: Shard) -> None:
        _check_unchanged(shard, store.endpoint)
        index_of = {int(source_row[i]): i for i in shards[shard]}
        obj = InputObject(uri=shard.source, version=shard.version, size=0)
        only = columns_read(column)
        for n, row in scored_rows(obj, store.endpoint, readings[shard.way], only, index_of):
            verdict = says(row, column, f"{shard.source} row {n}")
            if verdict is not None:
                verdicts[index_of[n]] = verdict

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, shards))
    if np.isnan(verdicts).all():
        raise UserError(
            f"--verified {column}: none of the {len(verdicts):,} scored rows has a value in this "
            "column; name one with true or false"
        )
    return verdicts


def _shards(store: Store, scored: Scored) -> dict[Shard, list[int]]:
    """The shards that trajectories come from, and which of the N come from each."""
    of_places: dict[tuple[str, str], list[int]] = defaultdict(list)
    places = zip(scored.rows["source"].to_pylist(), scored.rows["unit"].to_pylist(), strict=True)
    for i, place in enumerate(places):
        of_places[place].append(i)
    packs = {pack.key: pack for pack in stored_packs(store, {unit[:16] for _, unit in of_places})}
    shards: dict[Shard, list[int]] = defaultdict(list)
    for (source, unit), some in of_places.items():
        pack = packs.get(unit[:16])
        members = {file.uri: file.version for file in pack.members} if pack else {}
        shard = Shard(source, members.get(source, unit[17:29]), way_of(unit))
        shards[shard] += some
    return shards


def _check_unchanged(shard: Shard, endpoint: str | None) -> None:
    """Raises UserError."""
    now = version_of(shard.source, endpoint)
    if now != shard.version:
        what = (
            "is gone since it was scored: put it back"
            if now is None
            else "was replaced since it was scored: run rsr-ray score on it as it is now"
        )
        raise UserError(f"--verified: shard {shard.source} {what}")
