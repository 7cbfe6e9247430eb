"""matched: the prompts that every teacher of a corpus answered, and any part of them as shards of their own.

Teachers can be compared prompt by prompt only where each has an answer. One pass over the corpus finds these rows; what
is kept of them is narrow, and fits on the driver.
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from rsr_ray.cluster import TASK_CPUS
from rsr_ray.config import RaceConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.objects import InputObject, put
from rsr_ray.read import canonical, iter_trajectories
from rsr_ray.reading import Reading

PART_ROWS = 256  # trajectories in a shard of a round
INDEX_ROWS = 4096  # rows of the index that leave a task at once
FOLDER_LENGTH = 100  # of a teacher's folder, which is there for people: the name itself is in the rows
INDEX = pa.schema(
    [
        pa.field("teacher", pa.string()),
        pa.field("prompt_id", pa.string()),
        pa.field("trajectory_id", pa.string()),
        pa.field("content", pa.string()),
        pa.field("object", pa.int32()),  # place in the listing of the corpus
        pa.field("source_row", pa.int64()),
        pa.field("n_chars", pa.int64()),  # of the conversation: what scoring it costs is in proportion
        pa.field("reject_reason", pa.string()),
    ]
)


def build_index(config: RaceConfig, objects: list[InputObject]) -> pa.Table:
    """INDEX rows of the whole corpus, in its order."""
    rows = [dataclasses.asdict(obj) | {"object": n} for n, obj in enumerate(objects)]
    tables = ray.data.from_arrow([pa.Table.from_pylist([row]) for row in rows]).map_batches(
        index_objects,
        fn_args=(config.s3_endpoint, config.reading),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    parts: Iterable[Any] = tables.iter_batches(batch_size=None, batch_format="pyarrow")
    return pa.concat_tables([part.cast(INDEX) for part in parts]).sort_by([("object", "ascending"), ("source_row", "ascending")])


def index_objects(objects: pa.Table, endpoint: str | None, reading: Reading) -> Iterator[pa.Table]:
    """Ray Data UDF over input objects: their INDEX rows."""
    for row in objects.to_pylist():
        place, held = row.pop("object"), []
        obj = InputObject(**row)
        for index, given in enumerate(iter_trajectories(obj, endpoint, reading)):
            found = canonical(given, obj, index, reading)
            chars = sum(len(turn["content"]) + len(json.dumps(turn.get("tool_calls", ""))) for turn in json.loads(found["messages"] or "[]"))
            held.append(found | {"object": place, "n_chars": chars})
            if len(held) == INDEX_ROWS:
                yield pa.Table.from_pylist(held, schema=INDEX)
                held = []
        yield pa.Table.from_pylist(held, schema=INDEX)


@dataclass(frozen=True)
class Matched:
    """The trajectories that can race: every teacher's answers to the matched prompts."""

    teachers: list[str]  # [T], sorted
    prompts: list[str]  # [N] ids, in the order in which they are scored
    rows: pa.Table  # INDEX and, int64, `t` and `p`: indices into the two
    n_unreadable: int  # rows of the corpus that cannot race

    @staticmethod
    def of(index: pa.Table, wanted: tuple[str, ...], seed: int) -> "Matched":
        """Each trajectory once, the first where it is repeated. Raises UserError where no prompt is matched."""
        good = index.filter(pc.is_null(index["reject_reason"]))
        n_unreadable = index.num_rows - good.num_rows
        known = sorted(pc.unique(good["teacher"]).to_pylist())
        if unknown := sorted({*wanted} - {*known}):
            raise UserError(f"--teachers {' '.join(unknown)}: not in the corpus; it has {', '.join(known)}")
        teachers = sorted({*wanted}) or known
        if len(teachers) < 2:
            raise UserError(f"a race needs at least two teachers; the corpus has {', '.join(known) or 'none'}")
        rows = good.filter(pc.is_in(good["teacher"], pa.array(teachers)))
        place = pa.array(np.arange(rows.num_rows))
        first = rows.append_column("place", place).group_by(["teacher", "trajectory_id", "content"]).aggregate([("place", "min")])
        rows = _named_apart(rows.take(pa.array(np.sort(first["place_min"].to_numpy()))))
        prompts = pc.unique(rows["prompt_id"])
        t = pc.index_in(rows["teacher"], pa.array(teachers)).to_numpy()
        p = pc.index_in(rows["prompt_id"], prompts).to_numpy()
        there = np.zeros((len(prompts), len(teachers)), bool)
        there[p, t] = True
        matched: np.ndarray = np.all(there, axis=1)
        if not matched.any():
            raise UserError(_unmatched(teachers, there))
        names = prompts.to_pylist()
        order = sorted(np.flatnonzero(matched), key=lambda i: digest([seed, names[i]]))
        to_place = np.full(len(prompts), -1)
        to_place[order] = np.arange(len(order))
        rows = rows.append_column("t", pa.array(t)).append_column("p", pa.array(to_place[p])).filter(pa.array(matched[p]))
        return Matched(teachers, [names[i] for i in order], rows, n_unreadable)


def _named_apart(rows: pa.Table) -> pa.Table:
    """INDEX rows of which those that share a teacher and an id have some of their content in it."""
    key = pc.binary_join_element_wise(rows["teacher"], rows["trajectory_id"], "\0")
    counts = key.value_counts()
    shared = pc.is_in(key, counts.field("values").filter(pc.greater(counts.field("counts"), 1)))
    longer = pc.binary_join_element_wise(rows["trajectory_id"], pc.utf8_slice_codeunits(rows["content"], 0, 8), "#")
    ids = pc.if_else(shared, longer, rows["trajectory_id"])
    return rows.set_column(rows.schema.get_field_index("trajectory_id"), "trajectory_id", ids)


def _unmatched(teachers: list[str], there: np.ndarray) -> str:
    """What to say of teachers that share no prompt; `there` bool [P, T]. Groups that do share some are found greedily."""
    groups: list[list[int]] = []
    for t in np.argsort(-there.sum(0), kind="stable").tolist():
        home = next((group for group in groups if bool(there[:, [*group, t]].all(1).any())), None)
        home.append(t) if home else groups.append([t])
    said = [f"{' '.join(sorted(teachers[t] for t in group))} ({np.count_nonzero(there[:, group].all(1)):,})" for group in groups if len(group) > 1]
    offer = "name some that do with --teachers; those of a group share this many: " + "; ".join(said) if said else "no two of them share any"
    return f"no prompt has an answer of each of the {len(teachers)} teachers: {offer}"


# --- the shards of a round --------------------------------------------------------------------------------------------


def write_rows(config: RaceConfig, objects: list[InputObject], matched: Matched, rows: np.ndarray, folder: str) -> None:
    """Write rows (bool) of them as shards of at most PART_ROWS trajectories of a teacher, whose names are hashes of what is in them.

    Raises RunError where an object is not what the index says.
    """
    chosen = matched.rows.filter(pa.array(rows)).sort_by([(name, "ascending") for name in ("t", "p", "object", "source_row")])
    t, ids = chosen["t"].to_numpy(), chosen["trajectory_id"].to_pylist()
    nth = np.arange(len(t)) - np.searchsorted(t, t)  # of its teacher
    names: list[str] = []
    for start, stop in itertools.pairwise([*np.flatnonzero(nth % PART_ROWS == 0).tolist(), len(t)]):
        teacher = matched.teachers[t[start]]
        name = re.sub("[^A-Za-z0-9._-]+", "_", teacher)[:FOLDER_LENGTH]
        names += [f"teacher={name}/part-{digest([teacher, ids[start:stop]])[:16]}.jsonl"] * (stop - start)
    chosen = chosen.select(["trajectory_id", "content", "object", "source_row"]).append_column("part", pa.array(names, pa.string()))
    wanted: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for place, row in enumerate(chosen.to_pylist()):
        wanted[row.pop("object")].append({**row, "place": place})
    sources = [pa.Table.from_pylist([dataclasses.asdict(objects[n]) | {"rows": some}]) for n, some in wanted.items()]
    read = ray.data.from_arrow(sources).map_batches(
        read_rows,
        fn_args=(config.s3_endpoint, config.reading),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    parts = read.groupby("part", num_partitions=min(len(set(names)), 8))
    parts.map_groups(write_part, fn_args=(folder, config.s3_endpoint), batch_format="pyarrow", num_cpus=TASK_CPUS).materialize()


def read_rows(objects: pa.Table, endpoint: str | None, reading: Reading) -> Iterator[pa.Table]:
    """Ray Data UDF over input objects with the `rows` that are wanted of each: these as lines of JSON."""
    for row in objects.to_pylist():
        wanted = {entry["source_row"]: entry for entry in row.pop("rows")}
        obj = InputObject(**row)
        lines = []
        for index, given in enumerate(iter_trajectories(obj, endpoint, reading)):
            if entry := wanted.pop(index, None):
                found = canonical(given, obj, index, reading)
                if found["content"] != entry["content"] or found["reject_reason"]:
                    wanted[index] = entry
                    break
                line = {name: found[name] for name in ("prompt_id", "teacher", "sample", "complete")}
                line["trajectory_id"] = entry["trajectory_id"]
                line |= {name: json.loads(found[name]) for name in ("messages", "tools") if found[name]}
                lines.append({"part": entry["part"], "place": entry["place"], "line": json.dumps(line)})
            if not wanted:
                break
        if wanted:
            raise RunError(f"{obj.uri} was replaced while the race read it")
        yield pa.Table.from_pylist(lines)


def write_part(rows: pa.Table, folder: str, endpoint: str | None) -> pa.Table:
    """Ray Data UDF over the lines of a part: its file written, its name out."""
    lines = rows.sort_by("place")["line"].to_pylist()
    name = rows["part"][0].as_py()
    put(f"{folder}/{name}", "".join(f"{line}\n" for line in lines).encode(), endpoint)
    return pa.table({"part": [name]})


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
