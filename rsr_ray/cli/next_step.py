"""next_step: the command that comes after one, to be copied."""

import shlex
from typing import Any

from rsr_ray.errors import safe


def command_line(command: str, **options: Any) -> str:
    """A command of rsr-ray with these options; one that is None, or names nothing, is left out."""
    words = ["rsr-ray", command]
    for name, value in options.items():
        if value is None or value == ():
            continue
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def print_next(line: str) -> None:
    print(safe(f"next      {line}"))
