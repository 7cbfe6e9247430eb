"""next_step: the command that comes after one, to be copied."""

import dataclasses

from rsr_ray.config.command_line import command_line
from rsr_ray.config.options import short_name
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import safe


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
