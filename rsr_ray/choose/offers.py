"""offers: all candidates of a choice as a few numbers each, on the driver."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rsr_ray.choose.files import without_summary
from rsr_ray.choose.prompts import rank_prompts
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.codes import sorted_codes_of
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
        """Of what `offered` gives for partitions, each prompt in one of them.

        A block is let go before the next is taken, and what is gathered of a column before the next
        is sorted: there may be tens of millions of rows.
        """
        prompts, teachers = _Names(), _Names()
        numbers = defaultdict[str, list[np.ndarray]](list)
        for block in blocks:
            rows = without_summary(block).drop_columns(["summary"])
            prompts.add(rows["prompt_id"])
            teachers.add(rows["teacher"])
            for name in rows.column_names[2:]:
                numbers[name].append(np.array(rows[name]))
        prompt, of_prompts = prompts.sorted()
        teacher, of_teachers = teachers.sorted()
        by_prompt = np.argsort(prompt, kind="stable")
        return cls(
            of_prompts,
            of_teachers.to_pylist(),
            prompt[by_prompt],
            teacher[by_prompt],
            {name: np.concatenate(numbers.pop(name))[by_prompt] for name in [*numbers]},
        )

    @property
    def place(self) -> np.ndarray:
        """1 = the best of its prompt, int32 [N]."""
        first = np.searchsorted(self.prompt, np.arange(len(self.prompts))).astype(np.int32)
        return np.arange(1, len(self.prompt) + 1, dtype=np.int32) - first[self.prompt]


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


class _Names:
    """A dictionary column of block after block."""

    def __init__(self) -> None:
        self.dictionaries: list[pa.Array] = []
        self.indices: list[np.ndarray] = []
        self.n = 0

    def add(self, column: pa.ChunkedArray) -> None:
        for chunk in column.chunks:
            self.indices.append(chunk.indices.to_numpy() + np.int32(self.n))
            self.dictionaries.append(chunk.dictionary)
            self.n += len(chunk.dictionary)

    def sorted(self) -> tuple[np.ndarray, pa.Array]:
        """int32 [N] indices into the values in order, and these."""
        number, texts = sorted_codes_of(pa.chunked_array(self.dictionaries, pa.string()))
        indices = np.concatenate([np.zeros(0, np.int32), *self.indices])
        return number.astype(np.int32)[indices], texts
