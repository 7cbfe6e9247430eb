"""A setting is an option, a YAML key and a field of a frozen dataclass.

A field is an option (`--max-length`) and a YAML key (`max_length`); its `help` is what `--help`
prints.
"""

import dataclasses
import re
from dataclasses import field
from typing import Any

from rsr_ray.config.settings import kinds_of, settled
from rsr_ray.corpus.reading import check_patterns, check_roles
from rsr_ray.corpus.shapes import COLUMNS as NAMES
from rsr_ray.errors import UserError, did_you_mean

MANY = 6  # choices, of which a message names the nearest only
S3_ENDPOINT = "URL of an S3-compatible store; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL"
KEEP_DEGENERATE = (
    "keep trajectories that loop, repeat their tool calls, change their script or break off"
)
SEGMENT = (
    "segment of each trajectory on which to take the metric: reasoning, answer, tool_calls or a "
    "name given to score --segment"
)


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    positional: bool = False,
) -> Any:
    """A setting: an option of the command line, or an argument of it without a name where it is
    `positional`, a key of a YAML file, a field of a config.

    `metavar` is what --help calls its value.
    """
    metadata = {"help": help, "choices": choices, "metavar": metavar, "positional": positional}
    return field(default=default, metadata=metadata)


def called(setting: dataclasses.Field[Any]) -> str:
    """A setting as the command line calls it."""
    if setting.metadata.get("positional"):
        return setting.name.upper()
    return f"--{setting.name.replace('_', '-')}"


def short_name(student: str) -> str:
    """What a student is called in a store: the last part of its folder or hub id, without the
    revision.
    """
    return student.rstrip("/").split("/")[-1].split("@")[0]


def settle(config: Any) -> None:
    """Every setting of a config as its type has it. Raises UserError."""
    of: type = type(config)
    kinds = kinds_of(of)
    for setting in dataclasses.fields(config):
        name, option = setting.name, called(setting)
        value = settled(option, name, getattr(config, name), kinds[name])
        choices = setting.metadata.get("choices")
        if choices and value is not None and value not in choices:
            meant = did_you_mean(value, choices) if len(choices) > MANY else ""
            known = f"choose {', '.join(choices[:-1])} or {choices[-1]}"
            raise UserError(f"{option} {value}: {meant or known}")
        object.__setattr__(config, name, value)


def check_least(config: Any, least: int, *names: str) -> None:
    """Refuse numbers of a config that are less. Raises UserError."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def check_column_pairs(pairs: tuple[str, ...]) -> None:
    for pair in pairs:
        name, _, column = pair.partition("=")
        if name not in NAMES or not column:
            raise UserError(f"--columns {pair}: use NAME=COLUMN; names: {', '.join(NAMES)}")
    check_patterns(as_mapping(pairs))


def check_role_pairs(pairs: tuple[str, ...]) -> None:
    for pair in pairs:
        if "=" not in pair.strip("="):
            raise UserError(f"--roles {pair}: use NAME=ROLE")
    check_roles(as_mapping(pairs))


def check_segments(pairs: tuple[str, ...]) -> None:
    for pair in pairs:
        name, _, expression = pair.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not expression:
            raise UserError(
                f"--segment {pair}: give NAME=REGEX, the name in letters, digits, '_', '.' and '-'"
            )
        try:
            re.compile(expression)
        except re.error as e:
            raise UserError(f"--segment {pair}: not a regular expression: {e}") from e


def as_mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    return {name: column for name, _, column in (pair.partition("=") for pair in pairs)}
