"""offers: all candidates of a choice as a few numbers each, on the driver."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rsr_ray.choose.prompts import rank_prompts
from rsr_ray.config.choose import ChooseConfig


@dataclass(frozen=True)
class Offers:
    """Candidates sorted by prompt_id, and within a prompt the best first. All are [N]."""

    prompts: pa.Array  # string [P], ascending
    teachers: list[str]  # ascending
    prompt: np.ndarray  # int32: index into prompts
    teacher: np.ndarray  # int32: index into teachers
    order: np.ndarray  # float64: what the choice goes by, turned so that lower is better

    @classmethod
    def of(cls, blocks: Iterable[pa.Table]) -> "Offers":
        """Of what `offers_of` gives for partitions."""
        rows = pa.concat_tables(blocks).unify_dictionaries()
        prompt, prompts = _sorted_codes(rows["prompt_id"])
        teacher, teachers = _sorted_codes(rows["teacher"])
        by_prompt = np.argsort(prompt, kind="stable")
        return cls(
            prompts,
            teachers.to_pylist(),
            prompt[by_prompt],
            teacher[by_prompt],
            rows["order"].to_numpy()[by_prompt],
        )

    @property
    def place(self) -> np.ndarray:
        """1 = the best of its prompt, int64 [N]."""
        return np.arange(len(self.prompt)) - np.searchsorted(self.prompt, self.prompt) + 1


def offers_of(rows: pa.Table, config: ChooseConfig) -> pa.Table:
    """Ray Data UDF over partitions of CANDIDATES: prompt_id, teacher and order of the candidates,
    in the order of `RankedCandidates`.
    """
    _, ranked = rank_prompts(rows, config)
    names = {name: ranked.rows[name].dictionary_encode() for name in ("prompt_id", "teacher")}
    return pa.table({**names, "order": ranked.order})


def _sorted_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A dictionary column as int32 [N] indices into its values in order, and these."""
    whole = pa.concat_arrays(column.chunks)
    order = pa.compute.sort_indices(whole.dictionary)
    place = np.empty(len(order), np.int32)
    place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return place[whole.indices.to_numpy()], whole.dictionary.take(order)
