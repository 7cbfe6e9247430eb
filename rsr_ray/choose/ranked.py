"""ranked: the candidates of a partition, sorted so that the choice is the first of each prompt."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.columns import CHOSEN
from rsr_ray.choose.rule import codes, random_draw

TIE_RULE = (
    "ties are broken by teacher, then sample (null last), then trajectory_id, in order of their "
    "UTF-8 bytes"
)


@dataclass(frozen=True)
class RankedCandidates:
    """Candidates sorted by prompt, and within a prompt the best first. All are [N]."""

    rows: pa.Table  # CANDIDATES
    prompt: np.ndarray  # int64: a number for each prompt, ascending
    value: np.ndarray  # float64: what the choice goes by
    order: np.ndarray  # float64: the value, turned so that lower is better
    place: np.ndarray  # int64: 1 = the best of its prompt

    @classmethod
    def of(cls, rows: pa.Table, values: np.ndarray, better: str) -> "RankedCandidates":
        """The candidates among rows of CANDIDATES that have these values; ties by TIE_RULE."""
        candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
        rows = rows.filter(pa.array(candidate))
        value = values[candidate]
        prompt = codes(rows["prompt_id"])
        order = -value if better == "higher" else value
        keys = {"prompt": prompt, "order": order}
        keys |= {name: rows[name] for name in ("teacher", "sample", "trajectory_id")}
        ranking = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
        at = ranking.to_numpy()
        prompt = prompt[at]
        place = np.arange(len(prompt)) - np.searchsorted(prompt, prompt) + 1
        return cls(rows.take(ranking), prompt, value[at], order[at], place)

    @property
    def candidates_of_prompt(self) -> np.ndarray:
        """How many candidates each prompt has, int64 [P]."""
        return np.bincount(self.prompt)

    def are_among(self, some: pa.Table) -> np.ndarray:
        """Which are in a table of prompt_id and place, bool [N]."""
        index = {"prompt_id": self.rows["prompt_id"], "place": self.place}
        index["at"] = np.arange(len(self.place))
        found = pa.table(index).join(some, ["prompt_id", "place"], join_type="left semi")
        among = np.zeros(len(self.place), bool)
        among[found["at"].to_numpy()] = True
        return among

    def n_tied(self, k: int) -> int:
        """How many prompts are cut between equal values when k rows of each are kept."""
        last = np.flatnonzero(self.place[:-1] == k)
        same_prompt = self.prompt[last] == self.prompt[last + 1]
        same_value = self.order[last] == self.order[last + 1]
        return int((same_prompt & same_value).sum())

    def chosen_by_chance(self, chosen: np.ndarray, seed: int) -> np.ndarray:
        """As many of each prompt as `chosen`, bool [N], but at random; bool [N]."""
        n_prompts = len(self.candidates_of_prompt)
        wanted = np.bincount(self.prompt, chosen, n_prompts)  # of each prompt
        shuffled = np.lexsort((random_draw(self.rows, seed), self.prompt))
        by_chance = np.empty(len(self.prompt), bool)
        by_chance[shuffled] = self.place <= wanted[self.prompt]
        return by_chance

    def chosen_rows(self, chosen: np.ndarray, by: str) -> pa.Table:
        """The rows `chosen`, bool [N], as CHOSEN."""
        out = self.rows.append_column("value", pa.array(self.value))
        out = out.append_column("place", pa.array(self.place, pa.int64()))
        out = out.filter(pa.array(chosen))
        out = out.append_column("by", pa.repeat(by, out.num_rows))
        out = out.append_column("summary", pa.nulls(out.num_rows, pa.string()))
        return out.select(CHOSEN.names).cast(CHOSEN)
