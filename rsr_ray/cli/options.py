"""The options of a command, made from its settings."""

import argparse
import dataclasses
import typing
from typing import Any

from rsr_ray.cli.commands import Command
from rsr_ray.config.options import called
from rsr_ray.config.score import ScoreConfig
from rsr_ray.config.settings import kinds_of

GROUPS = {
    "input": (
        "corpus",
        "teacher",
        "teacher_from",
        "columns",
        "roles",
        "media_root",
        "allow_http_media",
        "system_prompt",
        "system_role",
    ),
    "student": (
        "student",
        "student_name",
        "dtype",
        "quantize",
        "chat_template",
        "render",
        "trust_remote_code",
    ),
    "scores": (
        "store",
        "r_max",
        "max_length",
        "over_length",
        "metrics",
        "steps",
        "step_window",
        "token_scores",
        "per_turn",
        "segments",
        "segment",
        "stratum",
        "new_generation",
    ),
    "run": (
        "replicas",
        "gpus_per_replica",
        "batch_tokens",
        "unit_rows",
        "max_rejects",
        "ray_address",
        "s3_endpoint",
        "pushgateway",
        "log",
        "verbose",
    ),
}


def add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """--config, an option for each setting, --json. What is not given is left to the file and the
    defaults.

    Of settings that extend those of a run, the command's own come first.
    """
    parser.add_argument(
        "--config", metavar="FILE", help=command.config_help, required=command.needs_config
    )
    kinds = kinds_of(command.config)
    is_run = issubclass(command.config, ScoreConfig)
    titles = {name: title for title, names in GROUPS.items() for name in names} if is_run else {}
    groups: dict[str, Any] = {"": parser}
    for field in sorted(command.settings, key=lambda field: field.name in titles):
        title = titles.get(field.name, "")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_option(groups[title], field, kinds[field.name])
    if command.json:
        parser.add_argument("--json", action="store_true", help=command.json)


def _add_option(group: Any, field: dataclasses.Field[Any], kind: Any) -> None:
    """The option of a setting of a type."""
    how: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
    choices, metavar = field.metadata["choices"], field.metadata["metavar"]
    if field.metadata["positional"]:
        group.add_argument(field.name, nargs="?", metavar=called(field), **how)
        return
    how |= {"dest": field.name}
    number = next((t for t in (int, float) if kind is t or t in typing.get_args(kind)), None)
    if choices:
        how |= {"metavar": metavar or "{" + ",".join(choices) + "}"}
    elif kind is bool:
        how |= {"action": argparse.BooleanOptionalAction}
    elif kind == tuple[str, ...]:
        how |= {"nargs": "+", "action": "extend", "metavar": metavar or "NAME"}
    elif number:
        how |= {"type": number, "metavar": metavar or "N"}
    else:
        how |= {"metavar": metavar or field.name.split("_")[-1].upper()}
    group.add_argument(called(field), **how)


def _help(field: dataclasses.Field[Any]) -> str:
    """What argparse shows: the field's help, and its default where the help does not say it."""
    says, default = field.metadata["help"], field.default
    if default not in (dataclasses.MISSING, None, (), "") and not isinstance(default, bool):
        says += (
            f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        )
    return str(says).replace("%", "%%")
