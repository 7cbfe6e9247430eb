"""strata: what the columns of --stratum say of a row, by which its teachers are ranked apart."""

import datetime
from collections.abc import Mapping
from typing import Any

from rsr_ray.corpus.identity import name_of
from rsr_ray.corpus.shapes import value_at
from rsr_ray.errors import BadRow


def strata_of(row: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, str | None] | None:
    """The value of each column, or path into one; None where no column is asked for.

    Raises BadRow for a value that is no single one.
    """
    return {column: _name(value_at(row, column), column) for column in columns} or None


def _name(value: Any, column: str) -> str | None:
    """A value as text: as an id is written (identity.py), and true, false, and the time of day."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value  # a number of numpy's
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (datetime.datetime, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        kind, step = ("a list", "0") if isinstance(value, list) else ("a mapping", "KEY")
        raise BadRow("stratum", f"{column} holds {kind}: name one of its values: {column}.{step}")
    try:
        return name_of(value, column)
    except BadRow as e:
        raise BadRow("stratum", e.detail) from e
