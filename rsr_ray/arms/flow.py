"""flow: whether there are enough rows for the quotas, from a maximum flow.

From the source to each teacher goes what all arms together take of it, on to each prompt what it
has of that teacher, and to the sink what a prompt may give. If the flow is less than the quotas,
there are no such arms. If it is not, there are, unless more is asked than quotas and disjoint
trajectories: the edges of a bipartite multigraph can be coloured in A colours so that each vertex
has as many of each colour, give or take one (de Werra 1971), and a colour is an arm.
"""

import itertools

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow

from rsr_ray.arms.problem import Pool, Wanted


def usable(pool: Pool, wanted: Wanted) -> np.ndarray:
    """Rows that an arm can have at all, int64 [n].

    Those of the teachers asked for; where arms have the same prompts, of prompts with enough rows
    for all.
    """
    there = wanted.quotas[pool.teacher] > 0
    if wanted.same_prompts:
        need = wanted.k * arms_apart(pool, wanted)
        there &= np.bincount(pool.prompt, there)[pool.prompt] >= need
    return np.flatnonzero(there)


def fits(pool: Pool, wanted: Wanted) -> bool:
    """Whether the flow meets all quotas."""
    return bool((served(pool, wanted) == demand(pool, wanted)).all())


def demand(pool: Pool, wanted: Wanted) -> np.ndarray:
    """Rows of each teacher that all arms take together, int64 [T]."""
    return wanted.quotas * arms_apart(pool, wanted)


def served(pool: Pool, wanted: Wanted) -> np.ndarray:
    """Rows of each teacher, at most `demand`, that a maximum flow finds, int64 [T]."""
    n_teachers = len(wanted.quotas)
    n_prompts = int(pool.prompt.max(initial=-1)) + 1
    pairs, count = np.unique(
        pool.teacher.astype(np.int64) * n_prompts + pool.prompt, return_counts=True
    )
    starts = np.searchsorted(pairs, np.arange(n_teachers + 1) * n_prompts)
    enough = most_prompts(pool, wanted)
    some = [np.arange(a, min(b, a + enough)) for a, b in itertools.pairwise(starts.tolist())]
    pairs, count = (numbers[np.concatenate(some)] for numbers in (pairs, count))
    of, to = np.divmod(pairs, max(1, n_prompts))
    prompts, to = np.unique(to, return_inverse=True)
    most = wanted.k * (1 if wanted.disjoint == "prompts" else arms_apart(pool, wanted))
    source, sink = n_teachers + len(prompts), n_teachers + len(prompts) + 1
    teachers, every = np.arange(n_teachers), n_teachers + np.arange(len(prompts))
    tails = np.concatenate([np.full(n_teachers, source), of, every])
    heads = np.concatenate([teachers, n_teachers + to, np.full(len(prompts), sink)])
    most_of_pair = np.minimum(count, most)
    capacity = np.concatenate([demand(pool, wanted), most_of_pair, np.full(len(prompts), most)])
    graph = coo_array((capacity.astype(np.int32), (tails, heads)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(csr_array(graph), source, sink).flow
    return np.asarray(flow[[source], :].todense()).ravel()[:n_teachers].astype(np.int64)


def most_prompts(pool: Pool, wanted: Wanted) -> int:
    """Of a teacher that are looked at: one with answers to as many prompts as all teachers together
    take rows finds its own, whatever the others take.
    """
    return int(demand(pool, wanted).sum())


def arms_apart(pool: Pool, wanted: Wanted) -> int:
    """How many arms need rows of their own."""
    return 1 if wanted.disjoint == "none" else len(pool.costs)
