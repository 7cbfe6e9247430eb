"""pool: candidates of a choice as the numbers that arms are solved from."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from rsr_ray.arms.problem import Pool, Wanted
from rsr_ray.choose.offers import Offers
from rsr_ray.config.arms import COPIES, ArmsConfig
from rsr_ray.errors import UserError

LENGTH_BINS = 10  # of each teacher, of as many rows each
TOGETHER = 1_000_000  # rows, of whole groups, that are sorted at once: it takes ten numbers a row


@dataclass(frozen=True)
class Request:
    """Arms that are asked for, of candidates."""

    offers: Offers
    measures: tuple[str, ...]  # tokens, flops: those that the arms have the same of
    place: np.ndarray  # float64 [N]: 0 the lowest of its teacher (or prompt), 1 the highest
    pool: Pool
    wanted: Wanted

    @classmethod
    def of(cls, offers: Offers, measures: dict[str, np.ndarray], config: ArmsConfig) -> "Request":
        """`measures` are float64 [N] of the candidates. Raises UserError for an unknown teacher."""
        teachers = offers.teachers
        quota = config.quota or dict.fromkeys(teachers, config.per_teacher)
        if unknown := sorted({*quota} - {*teachers}):
            raise UserError(
                f"--quotas {unknown[0]}: no trajectory of this teacher can be chosen; "
                f"there: {', '.join(teachers) or 'none'}"
            )
        teacher = offers.teacher
        same_prompts = "prompts" in config.match
        place = places(offers.numbers["value"], offers.prompt if same_prompts else teacher)
        rng = np.random.default_rng(config.seed)
        costs = np.empty((len(config.arms), len(place)))
        for number, arm in enumerate(config.arms):
            costs[number] = cost(arm, place, offers)
        pool = Pool(
            teacher=teacher,
            prompt=offers.prompt,
            length_bin=_length_bins(offers.numbers["n_tokens"], teacher),
            costs=costs,
            measures=np.array([*measures.values()]).reshape(len(measures), len(place)),
            order=rng.permutation(len(offers.prompts)).astype(np.int32)[offers.prompt],
        )
        wanted = Wanted(
            quotas=np.array([quota.get(name, 0) for name in teachers]),
            k=config.k,
            disjoint=config.disjoint,
            same_prompts=same_prompts,
            copies=tuple(
                (config.arms.index(arm), config.arms.index(COPIES[arm]))
                for arm in config.arms
                if arm in COPIES
            ),
        )
        kept = {"n_tokens": offers.numbers["n_tokens"]}  # all else of them is in the pool
        return cls(replace(offers, numbers=kept), tuple(measures), place, pool, wanted)

    @property
    def teachers(self) -> list[str]:
        """By their number in the pool."""
        return self.offers.teachers


def cost(arm: str, place: np.ndarray, offers: Offers) -> np.ndarray:
    """What makes each row unfit for an arm, float64 [N], from 0 to 1."""
    if arm == "low":
        return place
    if arm == "high":
        return 1 - place
    if arm == "middle":
        return 2 * np.abs(place - 0.5)
    return offers.numbers[arm]


def places(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """0 for the lowest value of its group to 1 for the highest, float64 [N]; 0.5 for an only one.

    Equal values have equal places: the mean of those that they hold.
    """
    out = np.empty(len(values))
    by_group = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    about = np.arange(TOGETHER, len(values), TOGETHER)
    cuts = np.unique([0, *ends[np.searchsorted(ends, about)], len(values)])
    for start, stop in itertools.pairwise(cuts.tolist()):
        some = by_group[start:stop]
        out[some] = _places(values[some], group[some])
    return out


def _places(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    by_value = np.lexsort((values, group))
    of, value = group[by_value], values[by_value]
    starts = np.searchsorted(of, of)
    count = np.searchsorted(of, of, side="right") - starts
    begins = np.ones(len(of), bool)
    begins[1:] = (of[1:] != of[:-1]) | (value[1:] != value[:-1])
    run = np.cumsum(begins) - 1
    at = np.arange(len(of)) - starts
    mean = (np.bincount(run, at) / np.bincount(run))[run] if len(of) else at.astype(float)
    out = np.empty(len(of))
    out[by_value] = np.where(count > 1, mean / np.maximum(count - 1, 1), 0.5)
    return out


def _length_bins(tokens: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """int8 [N]: 0 for the shortest tenth of its teacher's rows, to 9."""
    bins = places(tokens, teacher) * LENGTH_BINS
    return np.minimum(bins, LENGTH_BINS - 1).astype(np.int8)
