"""prompts: the best trajectories of each prompt, from all its rows together."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.columns import CHOSEN
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.choose.rule import codes, evaluate
from rsr_ray.choose.summary import Summary
from rsr_ray.config.choose import ChooseConfig


def choose_prompts(
    rows: pa.Table, config: ChooseConfig, exchanged: pa.Table | None = None
) -> pa.Table:
    """Ray Data UDF over partitions of CANDIDATES, all rows of a prompt in one: the CHOSEN rows.

    One more row, which has nothing but `summary`, holds what was counted and added up here, as
    JSON. `exchanged` (prompt_id, place) are candidates of which a cap on shares says otherwise than
    the best of each prompt.
    """
    rows, ranked = rank_prompts(rows, config)
    chosen = ranked.place <= config.k
    if exchanged is not None:
        chosen ^= ranked.are_among(exchanged)
    summary = Summary.of(rows, ranked, chosen, config)
    last = pa.Table.from_pylist([{"summary": summary.to_text()}], CHOSEN)
    return pa.concat_tables([ranked.chosen_rows(chosen, config.criterion), last])


def rank_prompts(rows: pa.Table, config: ChooseConfig) -> tuple[pa.Table, RankedCandidates]:
    """Rows of CANDIDATES with copies and those without a value dropped, and the candidates."""
    rows = mark_copies(rows)
    values = evaluate(rows, config)
    candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
    rows = drop(rows, candidate & ~np.isfinite(values), "no_value")
    return rows, RankedCandidates.of(rows, values, config.better)


def mark_copies(rows: pa.Table) -> pa.Table:
    """Rows sorted by prompt, teacher, trajectory_id and content, all but one of the same dropped.

    A candidate counts before a row that is dropped already, for whatever reason, then the first by
    source and row.
    """
    rows = rows.append_column("out", pc.is_valid(rows["dropped"]))
    key = ("prompt_id", "teacher", "trajectory_id", "content")
    rows = rows.sort_by([(name, "ascending") for name in (*key, "out", "source", "source_row")])
    is_copy = np.zeros(rows.num_rows, bool)
    is_copy[1:] = np.logical_and.reduce([np.diff(codes(rows[name])) == 0 for name in key])
    return drop(rows.drop_columns(["out"]), is_copy, "duplicate")


def drop(rows: pa.Table, which: np.ndarray, why: str) -> pa.Table:
    """The rows, those of `which`, bool [N], dropped for that reason."""
    dropped = pc.if_else(pa.array(which), why, rows["dropped"])
    return rows.set_column(rows.schema.get_field_index("dropped"), "dropped", dropped)
