"""round_shards: any part of the matched rows as shards, which a round scores."""

import base64
import dataclasses
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray.data

from rsr_ray.config.race import RaceConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.images import in_parts
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.errors import RunError
from rsr_ray.files.objects import InputObject, put
from rsr_ray.race.matched import Matched, digest
from rsr_ray.run.datasets import shared_out
from rsr_ray.run.resources import TASK_CPUS

PART_ROWS = 256  # trajectories in a shard of a round
# Characters of a teacher's folder, which is there for people: the name itself is in the rows.
FOLDER_LENGTH = 100


def write_rows(
    config: RaceConfig, objects: list[InputObject], matched: Matched, rows: np.ndarray, folder: str
) -> None:
    """Write the matched rows `rows`, bool [N], as shards of at most PART_ROWS of one teacher.

    The shards' names are hashes of what is in them. Raises RunError if an object is not what the
    index says.
    """
    order = [(name, "ascending") for name in ("t", "p", "object", "source_row")]
    chosen = matched.rows.filter(pa.array(rows)).sort_by(order)
    parts = _part_names(chosen, matched.teachers)
    chosen = chosen.select(["trajectory_id", "content", "object", "source_row"])
    chosen = chosen.append_column("part", pa.array(parts, pa.string()))
    wanted: dict[int, list[Row]] = defaultdict(list)  # by object
    for place, row in enumerate(chosen.to_pylist()):
        wanted[row.pop("object")].append({**row, "place": place})
    sources = [dataclasses.asdict(objects[n]) | {"rows": some} for n, some in wanted.items()]
    lines = ray.data.from_arrow(shared_out(pa.Table.from_pylist(sources))).map_batches(
        read_rows,
        fn_args=(config.s3_endpoint, config.reading),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    lines.groupby("part", num_partitions=min(len(set(parts)), 8)).map_groups(
        write_part, fn_args=(folder, config.s3_endpoint), batch_format="pyarrow", num_cpus=TASK_CPUS
    ).materialize()


def _part_names(rows: pa.Table, teachers: list[str]) -> list[str]:
    """For each of the rows, which are sorted by teacher, the name of the shard it goes into."""
    t = rows["t"].to_numpy()
    ids = rows["trajectory_id"].to_pylist()
    nth = np.arange(len(t)) - np.searchsorted(t, t)  # of its teacher
    starts = np.flatnonzero(nth % PART_ROWS == 0).tolist()
    names: list[str] = []
    for start, stop in itertools.pairwise([*starts, len(t)]):
        teacher = teachers[t[start]]
        folder = re.sub("[^A-Za-z0-9._-]+", "_", teacher)[:FOLDER_LENGTH]
        part = digest([teacher, ids[start:stop]])[:16]
        names += [f"teacher={folder}/part-{part}.jsonl"] * (stop - start)
    return names


def read_rows(objects: pa.Table, endpoint: str | None, reading: Reading) -> Iterator[pa.Table]:
    """Ray Data UDF over input objects, each with the `rows` wanted of it: these as JSON lines."""
    for row in objects.to_pylist():
        wanted = {entry["source_row"]: entry for entry in row.pop("rows")}
        obj = InputObject(**row)
        lines = []
        for index, given in enumerate(iter_trajectories(obj, endpoint, reading)):
            if entry := wanted.get(index):
                found = canonical(given, obj, index, reading, endpoint)
                if found["content"] != entry["content"] or found["reject_reason"]:
                    break
                del wanted[index]
                line = json.dumps(_shard_row(found, entry["trajectory_id"]))
                lines.append({"part": entry["part"], "place": entry["place"], "line": line})
            if not wanted:
                break
        if wanted:
            raise RunError(f"{obj.uri} was replaced while the race read it")
        yield pa.Table.from_pylist(lines)


def _shard_row(found: Row, trajectory_id: str) -> Row:
    """A canonical row as a shard of a round has it."""
    row = dict(found["strata"] or {})  # under their paths, which a column comes before
    row |= {name: found[name] for name in ("prompt_id", "teacher", "sample", "complete")}
    row["trajectory_id"] = trajectory_id
    for name in ("messages", "tools"):
        if found[name]:
            row[name] = json.loads(found[name])
    if found["images"]:
        images = iter(found["images"])
        row["messages"] = [_with_images(turn, images) for turn in row["messages"]]
    return row


def _with_images(turn: Row, images: Iterator[bytes]) -> Row:
    """A turn with its images in it: a round needs no --media-root."""
    if not turn.get("images"):
        return turn
    here = [base64.b64encode(next(images)).decode() for _ in turn["images"]]
    return in_parts(turn, [{"type": "image", "base64": data} for data in here])


def write_part(rows: pa.Table, folder: str, endpoint: str | None) -> pa.Table:
    """Ray Data UDF over the lines of a part: its file written, its name out."""
    lines = rows.sort_by("place")["line"].to_pylist()
    name = rows["part"][0].as_py()
    put(f"{folder}/{name}", "".join(f"{line}\n" for line in lines).encode(), endpoint)
    return pa.table({"part": [name]})
