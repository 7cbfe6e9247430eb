"""next_step: the command that comes after one, to be copied."""

import dataclasses
import shlex
from typing import Any

from rsr_ray.config.options import short_name
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import safe


def command_line(command: str, **options: Any) -> str:
    """A command of rsr-ray with these options; one that is None, or names nothing, is left out."""
    words = ["rsr-ray", command]
    for name, value in options.items():
        if value is None or value == ():
            continue
        called = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{called}")
            continue
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{called}", *map(str, values)]
    return shlex.join(words)


def score_line(config: ScoreConfig) -> str:
    """The run that preview and doctor looked ahead to, under the settings they were given."""
    given = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(ScoreConfig)
        if getattr(config, field.name) != field.default
    }
    if config.student_name == short_name(config.student):
        del given["student_name"]
    return command_line("score", **given | {"store": config.store or "rsr"})


def print_next(line: str) -> None:
    print(safe(f"next      {line}"))
