"""spearman: the rank correlation of two columns of trajectories."""

import math

import numpy as np


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Of a and b [N]; NaN where one of them does not vary, or for fewer than three."""
    # half a second to import, which a night with nothing new need not wait for
    from scipy import stats

    if len(a) <= 2 or not np.ptp(a) or not np.ptp(b):
        return math.nan
    return float(stats.spearmanr(a, b).statistic)
