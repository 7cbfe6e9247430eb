"""What a setting may be.

Whatever YAML, the command line or a program gives, it is of its type, or refused in one line.
"""

import math
import typing
from typing import Any

from rsr_ray.credentials import refuse_credentials, scrub
from rsr_ray.errors import UserError

MOST = 2**31 - 1  # of whole numbers; no setting has a use for more
MOST_SEED = 2**63 - 1
MOST_TEXT = 4096  # characters; no system opens a longer path
MAY_BE_LONG = ("system_prompt",)
# Where empty text says: none.
MAY_BE_EMPTY = ("night", "system_prompt", "s3_endpoint", "ray_address")
WANTED = {
    bool: "true or false",
    int: "a whole number in digits",
    float: "a number",
    str: "text (in quotes if YAML would read it as something else)",
}


def settled(setting: str, name: str, value: Any, kind: Any) -> Any:
    """The value of the setting `name` as its type has it.

    Raises UserError, which calls it `setting`. A list of texts may be one text; `columns` may be a
    mapping as well. A whole number is a number.
    """
    if kind == tuple[str, ...]:
        return _texts(setting, name, value)
    plain = [k for k in (bool, int, float, str) if kind is k or k in typing.get_args(kind)]
    if not plain or (value is None and type(None) in typing.get_args(kind)):
        return value  # students are configs themselves
    wanted: Any = plain[0]
    if wanted is float and type(value) is int and abs(value) <= MOST:
        value = float(value)
    if type(value) is not wanted:
        raise UserError(f"{setting}: must be {WANTED[wanted]}, got {shown(value)}")
    if isinstance(value, str):
        check_text(
            setting, name, value, optional=value == "" and type(None) in typing.get_args(kind)
        )
    elif isinstance(value, int):
        check_whole(setting, name, value)
    elif not math.isfinite(value):
        raise UserError(f"{setting} {value}: is not a finite number")
    return value


def check_whole(setting: str, name: str, number: int) -> None:
    """Raise UserError where a whole number is larger than any that is of use."""
    if abs(number) > (MOST_SEED if name == "seed" else MOST):
        raise UserError(f"{setting} {shown(number)}: is too large")


def check_text(setting: str, name: str, text: str, *, optional: bool = False) -> None:
    """Raise UserError for a text that is empty, too long, unfit for a file, or has credentials."""
    if len(text) > MOST_TEXT and name not in MAY_BE_LONG:
        raise UserError(f"{setting}: has {len(text):,} characters; the limit is {MOST_TEXT:,}")
    refuse_credentials(setting, text)
    if not text.strip() and name not in MAY_BE_EMPTY and not optional:
        raise UserError(f"{setting}: is empty; give a value or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"{setting}: {ascii(text)[:60]} is not valid UTF-8") from e
    if "\0" in text:
        raise UserError(f"{setting}: {ascii(text)[:60]} contains a zero byte")


def shown(value: Any) -> str:
    """A value as an error message quotes it."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of too many digits
        text = f"a value of type {type(value).__name__}"
    return scrub(text)[:60]


def _texts(setting: str, name: str, value: Any) -> tuple[str, ...]:
    if name == "columns" and isinstance(value, dict):
        value = [_pair(setting, key, column) for key, column in value.items()]
    many = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for one in many:
        if type(one) is not str:
            example = " or a mapping of names to columns" if name == "columns" else ""
            raise UserError(
                f"{setting}: must be a list of texts{example} (in quotes if YAML would read one as "
                f"something else), got {shown(one)}"
            )
        check_text(setting, name, one)
    return many


def _pair(setting: str, name: Any, column: Any) -> str:
    if type(name) is not str or type(column) is not str:
        raise UserError(
            f"{setting}: must be NAME: COLUMN (in quotes if YAML would read one as something "
            f"else), got {shown(name)}: {shown(column)}"
        )
    return f"{name}={column}"
