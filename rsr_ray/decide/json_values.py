"""json_values: numbers as JSON has them, which knows neither NumPy's scalars nor NaN."""

import math


def known(value: float | None) -> float | None:
    """A number, also of NumPy, as Python's; None where it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None
