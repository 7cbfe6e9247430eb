"""corpus_rows: the rows of shown trajectories, read from the corpus again."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.decide.loading import READERS
from rsr_ray.decide.reread import readings_of, way_of
from rsr_ray.errors import one_line
from rsr_ray.files.objects import InputObject
from rsr_ray.report.page.trajectories import ShownTrajectory
from rsr_ray.store.store import Store


@dataclass(frozen=True)
class Missing:
    """Why the row of a trajectory is not at hand, as a sentence without a full stop."""

    why: str


def read_rows(
    store: Store, shown: Mapping[int, ShownTrajectory], most: int | None = None
) -> Iterator[tuple[int, Row | Missing]]:
    """The READ_ROWS value of each shown[i] with i, in any order, or why it is missing.

    A row counts only if its content is what was scored. One pass per shard, and at most `most` rows
    are read over all of them, for the first trajectories first. Raises nothing that has to do with
    the corpus.
    """
    readings = readings_of(store, {way_of(row.unit) for row in shown.values()})
    shards: dict[tuple[str, str], list[int]] = defaultdict(list)  # source, way -> some i
    for i, row in shown.items():
        if row.content is None:
            yield (
                i,
                Missing(
                    "the store has no hash of its text, so a row of the corpus cannot be checked"
                ),
            )
        elif way_of(row.unit) not in readings:
            yield i, Missing("the store lacks the record of the run that read it")
        else:
            shards[row.source, way_of(row.unit)].append(i)
    near, far = _within(shards, shown, most)
    for i in far:
        yield i, Missing("reading the corpus up to its row takes too long for this page")
    read = partial(_read_shard, shown=shown, readings=readings, endpoint=store.endpoint)
    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(read, near.items()):
            yield from found.items()


def _within(
    shards: Mapping[tuple[str, str], list[int]],
    shown: Mapping[int, ShownTrajectory],
    most: int | None,
) -> tuple[dict[tuple[str, str], list[int]], list[int]]:
    """What can be read with at most `most` rows, the first trajectories first, and the others."""
    ends: dict[tuple[str, str], int] = defaultdict(int)  # how far each shard is read
    near: dict[tuple[str, str], list[int]] = defaultdict(list)
    far = []
    left = most
    for i, shard in sorted((i, shard) for shard, some in shards.items() for i in some):
        more = max(0, shown[i].source_row + 1 - ends[shard])
        if left is not None and more > left:
            far.append(i)
            continue
        left = None if left is None else left - more
        ends[shard] += more
        near[shard].append(i)
    return near, far


def _read_shard(
    shard: tuple[tuple[str, str], Iterable[int]],
    *,
    shown: Mapping[int, ShownTrajectory],
    readings: Mapping[str, Reading],
    endpoint: str | None,
) -> dict[int, Row | Missing]:
    """The rows of one shard."""
    (source, way), some = shard
    obj = InputObject(uri=source, version="", size=0)
    left = {shown[i].source_row: i for i in some}
    found: dict[int, Row | Missing] = {}
    try:
        for index, given in enumerate(iter_trajectories(obj, endpoint, readings[way])):
            if index in left:
                i = left.pop(index)
                reading = replace(readings[way], teacher=shown[i].teacher)
                row = canonical(given, obj, index, reading, endpoint)
                same = row["content"] == shown[i].content and row["messages"] is not None
                found[i] = row if same else Missing("its row has changed since it was scored")
            if not left or (isinstance(given, Unreadable) and given.shard):
                break
        why = "its row is no longer in the file"
    except FileNotFoundError:
        why = "the file is no longer there"
    except Exception as e:  # of any filesystem's client: the page has enough to say without it
        why = f"the file cannot be read: {one_line(e)}"
    return found | {i: Missing(why) for i in left.values()}
