"""Ids and names: which values are one, which are none, and which are refused.

The same id comes as text from one file and as a number from another, and as 1.0 where pandas put a
missing value beside it. One rule for all of trajectory_id, prompt_id, teacher and sample.
"""

import datetime
import decimal
import re
import uuid
from typing import Any

from rsr_ray.errors import BadRow

EXACT = 2**53  # beyond it a float stands for several whole numbers
INT64 = range(-(2**63), 2**63)
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")


def name_of(value: Any, column: str) -> str | None:
    """An id or name as text; None where the value is none.

    Raises BadRow for a value that may stand for several ids. None are: null, empty text, NaN and
    infinities, true and false, lists and mappings. A whole number is its digits, whatever its type,
    numpy's included. Bytes are UTF-8.
    """
    if getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of numpy's
    if value is None or isinstance(value, (bool, dict, list)):
        return None
    if isinstance(value, str):
        return _text(value, column)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text(_decoded(bytes(value), column), column)
    if isinstance(value, int):
        return _digits(value)
    if isinstance(value, (float, decimal.Decimal)):
        return _number(value, column)
    if isinstance(value, uuid.UUID):
        return str(value)
    if type(value) is datetime.date:
        return value.isoformat()
    raise BadRow(
        "identity", f"{column}: a value of type {type(value).__name__}; use text or whole numbers"
    )


def sample_of(value: Any) -> int | None:
    """The number of an answer; None for none, or no whole number of 64 bits. Raises BadRow."""
    name = name_of(value, "sample") or ""
    return int(name) if WHOLE.fullmatch(name) and int(name) in INT64 else None


def numbered(value: Any, n: int) -> Any:
    """The id of the n-th answer of a row that holds several.

    A value that is refused stays as it is, to be refused.
    """
    try:
        name = name_of(value, "id")
    except BadRow:
        return value
    return None if name is None else f"{name}/{n}"


def _text(value: str, column: str) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise BadRow(
            "identity",
            f"{column}: {value!r:.60} contains half a surrogate pair, which is not valid unicode",
        ) from e
    return value or None


def _decoded(value: bytes, column: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as e:
        raise BadRow("identity", f"{column}: the bytes {value!r:.60} are not UTF-8") from e


def _number(value: float | decimal.Decimal, column: str) -> str | None:
    exact = value if isinstance(value, decimal.Decimal) else decimal.Decimal(repr(value))
    if not exact.is_finite():
        return None
    if exact != int(exact):
        return format(exact, "f").rstrip("0")
    if isinstance(value, float) and abs(value) >= EXACT:
        problem = (
            "is a float too large to stand for one whole number; store ids as text or integers"
        )
        raise BadRow("identity", f"{column}: {value!r} {problem}")
    return _digits(int(exact))


def _digits(value: int) -> str:
    return str(decimal.Decimal(value))  # unlike int's own it has no limit of digits
