"""Shards -> work units of canonical rows.

A work unit is a slice of one input object: rows [start, stop), of which one that holds several
answers counts as several. Every row of the object belongs to exactly one unit, readable or not.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.rows import Place, iter_trajectories
from rsr_ray.files.objects import InputObject
from rsr_ray.unit_rows import READ_ROWS

FILES_AT_ONCE = 8  # of a pack, which are read at the same time


def read_units(
    objects: pa.Table, endpoint: str | None, unit_rows: int, reading: Reading
) -> Iterator[pa.Table]:
    """The work units of input objects (uri, version, size, members, done, again), a Ray Data UDF.

    Of one that has `again`, these units of the store, as they were cut.
    """
    for row in objects.to_pylist():
        done = [(start, stop) for start, stop in row.pop("done")]
        again = [(start, stop, bool(last)) for start, stop, last in row.pop("again")]
        files = [InputObject(**file) for file in row.pop("members")]
        obj = InputObject(**row)
        if again:
            yield from iter_again(obj, endpoint, again, reading, files)
        else:
            yield from iter_units(obj, endpoint, unit_rows, done, reading, files)


def _rows_of_files(
    files: Sequence[InputObject], endpoint: str | None, reading: Reading, place: Place
) -> Iterator[tuple[InputObject, int, Any]]:
    """The rows of files, each with its file and place in it; small files are read some ahead."""
    if len(files) == 1:
        yield from (
            (files[0], n, row)
            for n, row in enumerate(iter_trajectories(files[0], endpoint, reading, place=place))
        )
        return
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file, rows in zip(
            files,
            pool.map(lambda file: list(iter_trajectories(file, endpoint, reading)), files),
            strict=True,
        ):
            place.share += 1 / len(files)
            yield from ((file, n, row) for n, row in enumerate(rows))


def iter_units(
    obj: InputObject,
    endpoint: str | None,
    unit_rows: int,
    done: list[tuple[int, int]],
    reading: Reading,
    files: Sequence[InputObject] = (),
) -> Iterator[pa.Table]:
    """The work units of an object whose rows are not in `done`, each a table of one row.

    `files`, where given, are what the object is a pack of. Units lie on the grid of `unit_rows`, so
    the same object is cut the same way every time; `done` holds the row ranges that have a file
    already. `last` marks the unit that ends the object: with it in the store, the object is known
    to be whole without reading it again.
    """
    ranges = sorted(done)
    starts = [start for start, _ in ranges]
    total = first = 0
    held: list[Row] = []
    place, share = Place(), 0.0
    for index, (file, n, row) in enumerate(
        _rows_of_files(files or [obj], endpoint, reading, place)
    ):
        total = index + 1
        before = bisect_right(starts, index) - 1
        if before >= 0 and index < ranges[before][1]:
            continue
        if held and (index % unit_rows == 0 or index != first + len(held)):
            yield _unit(obj, first, held, share=share, last=False)
            held = []
        first = first if held else index
        held.append(canonical(row, file, n, reading, endpoint))
        share = place.share
    at_end = bool(held) and first + len(held) == total
    if held:
        yield _unit(obj, first, held, share=1.0, last=at_end)
    # An empty object, or one whose last rows were done, not known to be the last.
    if not at_end:
        yield _unit(obj, total, [], share=1.0, last=True)


def iter_again(
    obj: InputObject,
    endpoint: str | None,
    again: list[tuple[int, int, bool]],
    reading: Reading,
    files: Sequence[InputObject] = (),
) -> Iterator[pa.Table]:
    """Units of an object that are in the store, by their first row, the row after their last one,
    and whether they end it. Reads no further than they go.
    """
    left = sorted(again, reverse=True)
    held: list[Row] = []
    for index, (file, n, row) in enumerate(
        _rows_of_files(files or [obj], endpoint, reading, Place())
    ):
        start, stop, last = left[-1]
        if index >= start:
            held.append(canonical(row, file, n, reading, endpoint))
        if index + 1 == stop:
            left.pop()
            share = 1 - len(left) / len(again)
            yield _unit(obj, start, held, share=share, last=last, again=True)
            held = []
        if not left:
            return


def _unit(
    obj: InputObject,
    start: int,
    rows: list[Row],
    *,
    share: float,
    last: bool,
    again: bool = False,
) -> pa.Table:
    return pa.table(
        {
            "key": [obj.key],
            "version": [obj.version],
            "start": [start],
            "stop": [start + len(rows)],
            "last": [last],
            "share": [share],  # of the object, or of its units to read again, up to here
            "again": [again],  # it is in the store, and something is added to it
            "rows": pa.array([rows], pa.list_(READ_ROWS)),
        }
    )
