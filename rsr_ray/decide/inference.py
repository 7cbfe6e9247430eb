"""inference: what prompts that were drawn say of prompts like them, in numpy and scipy alone.

Everything stands on what each prompt adds to a value (`influence`), so any mean, ratio of means,
or difference of such is one case. What is resampled is prompts, the same for every teacher, and
what is resampled of them is Student's t and not the value itself: it carries the skewness that
makes other intervals miss on one side. `python -m tests.simulate` prints how often each of these
statements is right; README holds the tables.

Legend: P prompts, T teachers, B draws. Lower values are better throughout.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

DRAWS = 2000
FEWEST = 5  # prompts from which anything is said of how sure a value is
MOST = 150  # teachers whose places are bounded: the work grows with the square of their number
GROUPS = 500  # above so many prompts, random groups of them are resampled: as good, at a fixed cost
PAIRS = 500  # of teachers, resampled at once: bounds the memory
NOTHING = 1e-12  # of a value: what the order of additions can change
TOO_MANY = 100  # times the prompts: more than that nobody will score to tell two teachers apart
# The chance planned for if the true difference is what shrinkage leaves of the seen one. Where it
# is 1 to 2 standard errors it is more than that on the average, and the chance 75% to 88%, near the
# 80% that are wanted: `python -m tests.simulate more`.
PLANNED = 0.35


def influence(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of sums [T] of x and y [P, T], and what each prompt adds to them, [P, T].

    (x - R y) / mean y, the ratio made linear in the means; it sums to 0 over the prompts.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = x.sum(0) / y.sum(0)
        return ratio, (x - ratio * y) / y.mean(0)


@dataclass(frozen=True)
class Interval:
    """Intervals of values, float64 [T] each; NaN below FEWEST prompts and where nothing varies."""

    low: np.ndarray
    high: np.ndarray
    error: np.ndarray  # standard error


@dataclass(frozen=True)
class Places:
    """Bounds on the places of teachers, all of them right together at the confidence."""

    first: np.ndarray  # int [T]: the best place that a teacher may have, from 1
    last: np.ndarray  # int [T]: the worst
    before: np.ndarray  # bool [T, T]: the row's teacher is surely better than the column's
    critical: float  # how many standard errors a difference needs to be sure

    @property
    def best(self) -> np.ndarray:
        """Teachers that may be best, int [K], in the order in which they were given."""
        return np.flatnonzero(self.first == 1)


@dataclass(frozen=True)
class Chances:
    """How likely orders are, given what was seen and that teachers vary about a common mean."""

    best: np.ndarray  # float64 [T]: to be the best
    before: np.ndarray  # float64 [T, T]: the row's teacher to be better than the column's


def standard_error(each: np.ndarray) -> np.ndarray:
    """Of values to which each prompt adds `each` [P, ...], [...]."""
    n = len(each)
    error: np.ndarray = np.sqrt((each**2).sum(0) / max(n - 1, 1) / n)
    return error


def interval(
    values: np.ndarray, each: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Intervals of values [T] to which each prompt adds `each` [P, T], by the bootstrap of t.

    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5.
    """
    error = standard_error(each)
    unknown = np.full(len(values), math.nan)
    if len(each) < FEWEST:
        return Interval(unknown, unknown, error)
    return interval_of(values, error, _studentised(_grouped(each, seed), seed), confidence)


def interval_of(
    values: np.ndarray, error: np.ndarray, drawn: np.ndarray, confidence: float
) -> Interval:
    """Intervals of values [T] with a standard error, from draws of Student's t [B, T]."""
    tails = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    vary = error > NOTHING * np.abs(values)
    low, high = (np.where(vary, values - t * error, math.nan) for t in tails[::-1])
    return Interval(low, high, error)


def place_bounds(
    values: np.ndarray, each: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> Places:
    """Bounds on the places of teachers of which values [T] were seen, with `each` [P, T] as above.

    All ordered pairs of teachers are tested together: the largest t over the pairs not rejected
    yet is resampled, and those beyond its quantile are rejected, until none is (M. Mogstad,
    J. Romano, A. Shaikh, D. Wilhelm, Inference for Ranks, Review of Economic Studies 91, 2024).
    """
    a, b = np.triu_indices(len(values), 1)
    error = standard_error(each[:, a] - each[:, b])
    return places_of(values, error, _of_pairs(_grouped(each, seed), a, b, seed), confidence)


def places_of(
    values: np.ndarray, error: np.ndarray, drawn: np.ndarray, confidence: float
) -> Places:
    """The bounds of `place_bounds`, from the standard errors [K] of the differences of all pairs
    of teachers and draws of their Student's t [B, K], in the order of `np.triu_indices`.
    """
    n_teachers = len(values)
    a, b = np.triu_indices(n_teachers, 1)
    seen = t_of(values[a] - values[b], error, values)
    # Of each pair: whether that a is worse, and that b is, has not been shown yet.
    is_open = np.ones((2, len(a)), bool)
    while True:
        worse, better = (drawn[:, left] for left in is_open)
        largest = np.maximum(worse.max(1, initial=-np.inf), -better.min(1, initial=np.inf))
        critical = float(np.sort(largest)[math.ceil(confidence * (DRAWS + 1)) - 1])
        still = is_open & ~(np.stack([seen, -seen]) > critical)
        if (still == is_open).all():
            break
        is_open = still
    before = np.zeros((n_teachers, n_teachers), bool)
    before[b, a], before[a, b] = ~is_open
    return Places(1 + before.sum(0), n_teachers - before.sum(1), before, critical)


def chances(values: np.ndarray, each: np.ndarray, seed: int = 0, n_draws: int = DRAWS) -> Chances:
    """How likely orders of teachers are of which values [T] were seen, with `each` [P, T].

    Teachers vary about a common mean, so the one seen best was favoured by chance: differences are
    shrunk by the share of noise in the variance of what was seen, whose prior is uniform (M.
    Daniels, A prior for the variance in hierarchical models, Canadian J. of Statistics 27, 1999).
    The variance of the noise is not known either, which makes it Student's t for few prompts.
    """
    n, n_teachers = each.shape
    rng = np.random.default_rng([seed, n, n_teachers])
    each = each - each.mean(1, keepdims=True)  # what all teachers share moves no difference
    noise = (each**2).sum() / (n - 1) / n / (n_teachers - 1)
    return chances_of(values, noise, each.T @ each / (n * (n - 1)), n - 1, rng, n_draws)


def chances_of(
    values: np.ndarray,
    noise: float,
    covariance: np.ndarray,
    freedom: float,
    rng: np.random.Generator,
    n_draws: int = DRAWS,
) -> Chances:
    """The chances of `chances`, from the variance of the noise of a value and its covariance
    [T, T], both without what all teachers share, and from the degrees of freedom they have.
    """
    n_teachers = len(values)
    apart = values - values.mean()
    apart[np.abs(apart) <= NOTHING * np.abs(values).max()] = 0.0
    scale = freedom / rng.chisquare(freedom, n_draws)
    keep = 1 - _share_of_noise((apart**2).sum(), noise * scale, n_teachers, rng)
    error = _normal(covariance, n_draws, rng)
    drawn = keep[:, None] * apart + np.sqrt(keep * scale)[:, None] * error
    before = np.full((n_teachers, n_teachers), 0.5)
    for t in range(n_teachers - 1):
        before[t, t + 1 :] = _before(drawn[:, [t]], drawn[:, t + 1 :]).mean(0)
        before[t + 1 :, t] = 1 - before[t, t + 1 :]
    return Chances(share_first(drawn), before)


def more_prompts(
    values: np.ndarray, each: np.ndarray, pair: tuple[int, int], critical: float, n: int
) -> int | None:
    """About how many more prompts would tell a pair of teachers apart, with a chance of 80%.

    `critical` standard errors are needed; n prompts were seen, of which `each` may have blocks. The
    seen difference is shrunk as in `chances`, of these two teachers alone. None where it would take
    TOO_MANY times the prompts.
    """
    a, b = pair
    error = standard_error(each[:, [a]] - each[:, [b]])
    t = abs(float(t_of(values[[a]] - values[[b]], error, values)[0]))
    kept = 1 - _mean_share_of_noise(t)
    z = float(special.ndtri(PLANNED))

    def excess(times: float) -> float:
        """Of t on so many times the prompts, these among them, over what is needed."""
        expected = t * (1 + (times - 1) * kept) / math.sqrt(times)
        return expected - critical - z * math.sqrt((times - 1) / times)

    if excess(1.0) >= 0 or excess(TOO_MANY) <= 0:
        return None
    from scipy import optimize

    times = float(optimize.brentq(excess, 1.0, TOO_MANY))
    return max(1, math.ceil(n * (times - 1)))


def value_draws(x: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
    """Ratios of sums of x and y [P, T] in draws of prompts, the same for all teachers, [B, T]."""
    shares = resamples(min(len(x), GROUPS), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn: np.ndarray = (shares @ _grouped(x, seed)) / (shares @ _grouped(y, seed))
    return drawn


def share_first(values: np.ndarray) -> np.ndarray:
    """Share of rows in which each column is the lowest, a tie shared evenly, [T]; NaN never is."""
    first = values == np.nanmin(values, axis=1, keepdims=True)
    share: np.ndarray = (first / first.sum(1, keepdims=True)).mean(0)
    return share


def _before(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where a is lower than b, 0 where it is higher, 1/2 where they tie."""
    return np.where(a == b, 0.5, a < b)


def _share_of_noise(
    apart: float, noise: np.ndarray, n_teachers: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws [B] of noise / (noise + variance of teachers): a gamma distribution cut off at 1.

    `apart` is the sum of squares of T values about their mean, `noise` [B] the variance of each.
    """
    shape, uniform = (n_teachers + 1) / 2, rng.random(len(noise))
    if not apart:
        return uniform ** (1 / shape)
    if not noise.any():
        return np.zeros(len(noise))
    rate = apart / (2 * noise)
    below = special.gammainc(shape, rate)
    share = special.gammaincinv(shape, uniform * below) / rate
    # what it tends to where it is no number
    return np.where(below > 1e-290, share, uniform ** (1 / shape)).clip(0, 1)


def _mean_share_of_noise(t: float) -> float:
    """The mean of what `_share_of_noise` draws, of two teachers whose values are t standard
    errors apart.
    """
    shape, rate = 1.5, t**2 / 2
    if rate < NOTHING:
        return shape / (shape + 1)
    below, next_below = special.gammainc([shape, shape + 1], rate)
    return float(shape / rate * next_below / below)


def _normal(covariance: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [B, T] from the normal distribution with mean 0 and a covariance [T, T] of any rank."""
    variance, turn = np.linalg.eigh(covariance)
    normal: np.ndarray = rng.standard_normal((n_draws, len(variance)))
    drawn: np.ndarray = normal @ (turn * np.sqrt(variance.clip(0))).T
    return drawn


def t_of(difference: np.ndarray, error: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Differences over their standard errors; of one without error, 0 or infinite."""
    least = NOTHING * float(np.abs(values).max(initial=0.0))
    difference = np.where(np.abs(difference) <= least, 0.0, difference)
    sure = np.copysign(np.inf, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = difference / error
    return np.where(difference == 0, 0.0, np.where(error <= least, sure, t))


def _of_pairs(each: np.ndarray, a: np.ndarray, b: np.ndarray, seed: int) -> np.ndarray:
    """`_studentised` of the differences of pairs of teachers a, b [K], float32 [B, K]."""
    drawn = np.empty((DRAWS, len(a)), np.float32)
    for start in range(0, len(a), PAIRS):
        some = slice(start, start + PAIRS)
        drawn[:, some] = _studentised(each[:, a[some]] - each[:, b[some]], seed)
    return drawn


def _grouped(each: np.ndarray, seed: int) -> np.ndarray:
    """What prompts add [P, T], or random groups of them where they are many, [GROUPS, T]."""
    n = len(each)
    if n <= GROUPS:
        return each
    group = np.random.default_rng([seed, n]).permutation(n) % GROUPS
    return np.stack([np.bincount(group, column, GROUPS) for column in each.T], 1)


def _studentised(each: np.ndarray, seed: int) -> np.ndarray:
    """Student's t of the mean of `each` [P, K], whose own is 0, in draws of prompts, float32 [B,
    K].
    """
    n = len(each)
    size = np.sqrt((each**2).mean(0))
    unit = (each / np.where(size > 0, size, 1.0)).astype(np.float32)
    shares = resamples(n, seed)
    mean = shares @ unit
    return t_of_draws(mean, shares @ unit**2 - mean**2, math.sqrt(n - 1))


def t_of_draws(mean: np.ndarray, spread: np.ndarray, root: float = 1.0) -> np.ndarray:
    """Student's t of draws, float32 [B, K], from their means and spreads, which are about 1 in the
    whole sample; `root` is that of the degrees of freedom that the spread does not have in it.
    """
    sure = np.copysign(np.float32(np.inf), mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean * np.float32(root) / np.sqrt(spread)
    return np.where(np.abs(mean) < 1e-6, 0.0, np.where(spread < 1e-6, sure, t))


@lru_cache(maxsize=8)
def resamples(n: int, seed: int) -> np.ndarray:
    """Shares of n things in draws of n with replacement, float32 [B, n]."""
    rng = np.random.default_rng([seed, n, DRAWS])
    out = np.empty((DRAWS, n), np.float32)
    for start in range(0, DRAWS, 100):
        drawn = rng.integers(n, size=(100, n)) + n * np.arange(100)[:, None]
        out[start : start + 100] = np.bincount(drawn.reshape(-1), minlength=100 * n).reshape(100, n)
    return out / n
