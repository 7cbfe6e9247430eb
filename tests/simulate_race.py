"""How often a race is wrong where some answers of the rivals are junk:

`python -m tests.simulate_race [--fast]`.

The best of T teachers never fails. Each rival is better than it but for a share of junk, loops and
cut-off answers, that makes its true value worse: strong junk has 60 ranks and 8 nats a token, and
rivals that are 25% better without it; mild junk has 12 ranks and 2.5 nats, and rivals that are 3%
worse with it. Prompts are log-normal, with the spreads measured on real corpora or half of these
("narrow": what is not seen misleads sooner). A race is wrong when its winner is worse than the best
of all N prompts by more than the margin.
"""

import argparse
import itertools
import math

import numpy as np

from rsr_ray.decide.inference import influence
from rsr_ray.race.elimination import Elimination

from .test_elimination import made_up

RANK, SURPRISAL = 3.0, 1.0  # means of an answer that is none of the junk
SPREADS = {"measured": (0.47, 0.21), "narrow": (0.23, 0.1)}
JUNK = {"strong": (60.0, 8.0), "mild": (12.0, 2.5)}
MARGIN, CONFIDENCE = 0.01, 0.95
REPETITIONS = 300
SHARES = (0.02, 0.04, 0.07, 0.10)  # of a rival's answers that are junk


def junk_corpus(
    rng: np.random.Generator, spread: str, kind: str, share: float, n_prompts: int, n_teachers: int
) -> tuple[np.ndarray, np.ndarray]:
    """x, y float64 [N, T] of a corpus; the first teacher is the one without junk."""
    rank, surprisal = JUNK[kind]
    mean_surprisal = (1 - share) * SURPRISAL + share * surprisal
    # the rivals' true value, junk included, where the junk is mild
    wanted = 1.03 * RANK / SURPRISAL
    rival = (
        0.75 * RANK if kind == "strong" else (wanted * mean_surprisal - share * rank) / (1 - share)
    )
    ranks = [RANK] + [rival] * (n_teachers - 1)
    x, y = made_up(rng, n_prompts, ranks, [SURPRISAL] * n_teachers, spread=SPREADS[spread])
    is_junk = rng.random(x.shape) < share
    is_junk[:, 0] = False
    noise_x, noise_y = made_up(
        rng, n_prompts, [rank] * n_teachers, [surprisal] * n_teachers, spread=(0.2, 0.1)
    )
    return np.where(is_junk, noise_x, x), np.where(is_junk, noise_y, y)


def raced(x: np.ndarray, y: np.ndarray, **how: int | None) -> tuple[Elimination, float]:
    """A whole race over the prompts in their order, and the share of all trajectories that it
    scored.
    """
    state = Elimination(
        [f"{t:02d}" for t in range(x.shape[1])], len(x), confidence=CONFIDENCE, margin=MARGIN, **how
    )
    scored, seen = 0, 0
    while not state.finished:
        alive, end = [int(name) for name in state.alive], state.ends[state.round]
        scored, seen = scored + (end - seen) * len(alive), end
        state.update(x[:end, alive], y[:end, alive])
    return state, scored / x.size


def cell(
    spread: str, kind: str, share: float, n_prompts: int, n_teachers: int, repetitions: int
) -> dict[str, float]:
    """Shares of races that were wrong, of intervals that hold the value of all N prompts, and
    the median cost.
    """
    rng = np.random.default_rng(
        [len(spread), list(JUNK).index(kind), round(100 * share), n_prompts, n_teachers]
    )
    wrong, costs, held, said = 0, [], 0, 0
    for _ in range(repetitions):
        x, y = junk_corpus(rng, spread, kind, share, n_prompts, n_teachers)
        truth = influence(x, y)[0]
        state, cost = raced(x, y)
        assert state.winner is not None
        wrong += bool(truth[int(state.winner)] > truth.min() * (1 + MARGIN))
        costs.append(cost)
        for name, standing in state.standings.items():
            if standing.n_prompts < n_prompts:
                said += 1
                held += standing.low <= truth[int(name)] <= standing.high
    return {
        "wrong": wrong / repetitions,
        "held": held / said if said else math.nan,
        "cost": float(np.median(costs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="a twentieth of the races")
    repetitions = REPETITIONS // 20 if parser.parse_args().fast else REPETITIONS
    print(
        f"{repetitions} races a cell, {SHARES} of junk: wrong beyond the margin | intervals "
        f"that hold | median cost"
    )
    for spread, kind, n_prompts, n_teachers in itertools.product(
        SPREADS, JUNK, (300, 1000), (2, 6)
    ):
        row = [cell(spread, kind, share, n_prompts, n_teachers, repetitions) for share in SHARES]
        told = "   ".join(f"{c['wrong']:5.1%} | {c['held']:5.1%} | {c['cost']:4.0%}" for c in row)
        print(f"{spread:8} {kind:6} N={n_prompts:4} T={n_teachers}: {told}", flush=True)


if __name__ == "__main__":
    main()
