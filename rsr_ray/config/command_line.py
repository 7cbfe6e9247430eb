"""command_line: a command of rsr-ray, to be copied."""

import shlex
from typing import Any


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
