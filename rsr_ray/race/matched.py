"""matched: the prompts that every teacher of a corpus answered.

Teachers can be compared prompt by prompt only where each has an answer. One pass over the corpus
finds these rows; what is kept of them is narrow, and fits on the driver.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from rsr_ray.config.race import RaceConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject
from rsr_ray.run.datasets import shared_out
from rsr_ray.run.display import each
from rsr_ray.run.resources import TASK_CPUS

INDEX_ROWS = 4096  # rows of the index that leave a task at once
INDEX = pa.schema(
    [
        pa.field("teacher", pa.string()),
        pa.field("prompt_id", pa.string()),
        pa.field("trajectory_id", pa.string()),
        pa.field("content", pa.string()),
        pa.field("object", pa.int32()),  # place in the listing of the corpus
        pa.field("source_row", pa.int64()),
        # of the conversation: what scoring it costs is in proportion
        pa.field("n_chars", pa.int64()),
        pa.field("reject_reason", pa.string()),
    ]
)


def build_index(config: RaceConfig, objects: list[InputObject]) -> pa.Table:
    """INDEX rows of the whole corpus, in its order."""
    rows = [dataclasses.asdict(obj) | {"object": n} for n, obj in enumerate(objects)]
    blocks = shared_out(pa.Table.from_pylist(rows))
    tables = ray.data.from_arrow(blocks).map_batches(
        index_objects,
        fn_args=(config.s3_endpoint, config.reading),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    parts: Iterable[Any] = tables.iter_batches(batch_size=None, batch_format="pyarrow")
    parts = each(parts, len(blocks), f"reading the prompts of {len(rows):,} shards", config.log)
    return pa.concat_tables([part.cast(INDEX) for part in parts]).sort_by(
        [("object", "ascending"), ("source_row", "ascending")]
    )


def index_objects(objects: pa.Table, endpoint: str | None, reading: Reading) -> Iterator[pa.Table]:
    """Ray Data UDF over input objects: their INDEX rows."""
    for row in objects.to_pylist():
        place = row.pop("object")
        obj = InputObject(**row)
        held = []
        for index, given in enumerate(iter_trajectories(obj, endpoint, reading)):
            found = canonical(given, obj, index, reading, endpoint)
            held.append(found | {"object": place, "n_chars": _n_chars(found["messages"])})
            if len(held) == INDEX_ROWS:
                yield pa.Table.from_pylist(held, schema=INDEX)
                held = []
        yield pa.Table.from_pylist(held, schema=INDEX)


def _n_chars(messages: str | None) -> int:
    """Characters of a conversation, which is given as JSON."""
    turns = json.loads(messages or "[]")
    return sum(len(turn["content"]) + len(json.dumps(turn.get("tool_calls", ""))) for turn in turns)


@dataclass(frozen=True)
class Matched:
    """The trajectories that can race: every teacher's answers to the matched prompts."""

    teachers: list[str]  # [T], sorted
    prompts: list[str]  # [P] ids, in the order in which they are scored
    rows: pa.Table  # [N], INDEX and, int64, `t` and `p`: indices into the two
    n_unreadable: int  # rows of the corpus that cannot race

    @staticmethod
    def of(index: pa.Table, wanted: tuple[str, ...], seed: int) -> "Matched":
        """Each trajectory once, the first of copies. Raises UserError if no prompt is matched."""
        good = index.filter(pc.is_null(index["reject_reason"]))
        teachers = _racing(good, wanted)
        rows = _once(good.filter(pc.is_in(good["teacher"], pa.array(teachers))))
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
        place = np.full(len(prompts), -1)  # of a prompt, in that order
        place[order] = np.arange(len(order))
        rows = rows.append_column("t", pa.array(t)).append_column("p", pa.array(place[p]))
        return Matched(
            teachers=teachers,
            prompts=[names[i] for i in order],
            rows=rows.filter(pa.array(matched[p])),
            n_unreadable=index.num_rows - good.num_rows,
        )


def _racing(rows: pa.Table, wanted: tuple[str, ...]) -> list[str]:
    """The teachers that race, sorted: those wanted, or all. Raises UserError for less than two."""
    known = sorted(pc.unique(rows["teacher"]).to_pylist())
    if unknown := sorted({*wanted} - {*known}):
        raise UserError(
            f"--teachers {' '.join(unknown)}: not in the corpus; teachers: {', '.join(known)}"
        )
    teachers = sorted({*wanted}) or known
    if len(teachers) < 2:
        raise UserError(
            f"a race needs at least two teachers; the corpus has {', '.join(known) or 'none'}"
        )
    return teachers


def _once(rows: pa.Table) -> pa.Table:
    """INDEX rows without those that repeat an earlier one.

    Of those that share a teacher and an id, but not the content, the id gets some of the content.
    """
    place = pa.array(np.arange(rows.num_rows))
    groups = rows.append_column("place", place).group_by(["teacher", "trajectory_id", "content"])
    first = groups.aggregate([("place", "min")])["place_min"].to_numpy()
    rows = rows.take(pa.array(np.sort(first)))
    key = pc.binary_join_element_wise(rows["teacher"], rows["trajectory_id"], "\0")
    counts = key.value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    some_content = pc.utf8_slice_codeunits(rows["content"], 0, 8)
    longer = pc.binary_join_element_wise(rows["trajectory_id"], some_content, "#")
    ids = pc.if_else(pc.is_in(key, repeated), longer, rows["trajectory_id"])
    return rows.set_column(rows.schema.get_field_index("trajectory_id"), "trajectory_id", ids)


def _unmatched(teachers: list[str], there: np.ndarray) -> str:
    """What to say of teachers that share no prompt; `there` bool [P, T].

    Groups that do share some are found greedily.
    """

    def n_shared(group: list[int]) -> int:
        return int(there[:, group].all(1).sum())

    groups: list[list[int]] = []
    for t in np.argsort(-there.sum(0), kind="stable").tolist():
        home = next((group for group in groups if n_shared([*group, t])), None)
        if home:
            home.append(t)
        else:
            groups.append([t])
    said = [
        f"{' '.join(sorted(teachers[t] for t in group))} ({n_shared(group):,})"
        for group in groups
        if len(group) > 1
    ]
    offer = (
        "pass one of these groups to --teachers (shared prompts in parentheses): " + "; ".join(said)
        if said
        else "no two of them share a prompt"
    )
    return f"no prompt was answered by all {len(teachers)} teachers: {offer}"


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
