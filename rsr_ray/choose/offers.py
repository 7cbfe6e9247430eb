"""offers: all candidates of a choice as a few numbers each, on the driver."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.files import without_summary
from rsr_ray.choose.prompts import rank_prompts
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.config.choose import ChooseConfig


@dataclass(frozen=True)
class Offers:
    """Candidates sorted by prompt_id, and within a prompt the best first. All are [N]."""

    prompts: pa.Array  # string [P], ascending
    teachers: list[str]  # ascending
    prompt: np.ndarray  # int32: index into prompts
    teacher: np.ndarray  # int32: index into teachers
    numbers: dict[str, np.ndarray]  # what else is known of each, by name

    @classmethod
    def of(cls, blocks: Iterable[pa.Table]) -> "Offers":
        """Of what `offered` gives for partitions, each prompt in one of them."""
        tables = [without_summary(block).drop_columns(["summary"]) for block in blocks]
        rows = pa.concat_tables(tables).unify_dictionaries()
        prompt, prompts = _sorted_codes(rows["prompt_id"])
        teacher, teachers = _sorted_codes(rows["teacher"])
        by_prompt = np.argsort(prompt, kind="stable")
        return cls(
            prompts,
            teachers.to_pylist(),
            prompt[by_prompt],
            teacher[by_prompt],
            {name: rows[name].to_numpy()[by_prompt] for name in rows.column_names[2:]},
        )

    @property
    def place(self) -> np.ndarray:
        """1 = the best of its prompt, int64 [N]."""
        return np.arange(len(self.prompt)) - np.searchsorted(self.prompt, self.prompt) + 1


def offers_of(rows: pa.Table, config: ChooseConfig) -> pa.Table:
    """Ray Data UDF over partitions of CANDIDATES: the candidates as `Offers.of` takes them, with
    what the choice goes by, turned so that lower is better, as `order`.
    """
    _, ranked = rank_prompts(rows, config)
    return offered(ranked, {"order": ranked.order})


def offered(
    ranked: RankedCandidates, numbers: dict[str, np.ndarray], summary: str = ""
) -> pa.Table:
    """Candidates as `Offers.of` takes them, with these numbers, each [N], and a row more that has
    nothing but `summary`.
    """
    names = {name: ranked.rows[name].dictionary_encode() for name in ("prompt_id", "teacher")}
    last = pa.table({"summary": [summary]})
    return pa.concat_tables([pa.table({**names, **numbers}), last], promote_options="default")


def _sorted_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A dictionary column as int32 [N] indices into its values in order, and these."""
    whole = column.combine_chunks()
    order = pc.sort_indices(whole.dictionary)
    place = np.empty(len(order), np.int32)
    place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return place[whole.indices.to_numpy()], whole.dictionary.take(order)
