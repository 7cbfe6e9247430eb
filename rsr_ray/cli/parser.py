"""The parser of the command line, made from the table of commands and their settings."""

import argparse
import dataclasses
import re
import sys
import typing
from typing import Any, NoReturn

import rsr_ray
from rsr_ray.cli.commands import COMMANDS, PURPOSES, Command
from rsr_ray.cli.completion import completion
from rsr_ray.config.options import called
from rsr_ray.config.score import ScoreConfig
from rsr_ray.config.settings import kinds_of
from rsr_ray.credentials import scrub
from rsr_ray.errors import did_you_mean

GROUPS = {
    "input": (
        "corpus",
        "teacher",
        "teacher_from",
        "columns",
        "roles",
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
        "log",
        "verbose",
    ),
}


class Parser(argparse.ArgumentParser):
    """Refuses a command line in one line, which quotes no credentials of it."""

    def __init__(self, **how: Any):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **how
        )

    def error(self, message: str) -> NoReturn:
        if wrong := re.fullmatch(
            r"argument (.+): invalid choice: '(.+)' \(choose from (.+)\)", message
        ):
            argument, given, choices = wrong.groups()
            meant = did_you_mean(given, re.findall(r"[\w-]+", choices)) or f"choose from {choices}"
            message = f"unknown {'command' if argument == 'COMMAND' else argument} {given}; {meant}"
        self.exit(2, f"{self.prog}: {scrub(message)}\n")


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and that of each command."""
    parser = Parser(
        prog="rsr-ray",
        usage="rsr-ray COMMAND [options]",
        description=(
            "Which teacher's reasoning trajectories should this student learn from? (rsr: lower "
            "is better)"
        ),
        epilog=_grouped(),
    )
    parser.add_argument("--version", action="version", version=f"rsr-ray {rsr_ray.__version__}")
    parser.add_argument(
        "--completion",
        action="store_true",
        help='print completion for bash and zsh; use: eval "$(rsr-ray --completion)"',
    )
    added = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", help=argparse.SUPPRESS, prog="rsr-ray"
    )
    of_commands = {}
    for command in COMMANDS.values():
        own = added.add_parser(command.name, help=command.help)
        _add_options(own, command)
        of_commands[command.name] = own
    return parser, of_commands


def parse(argv: list[str] | None) -> tuple[Command, argparse.Namespace]:
    """The command of a command line, and what it is given."""
    parser, of_commands = make_parser()
    if (sys.argv[1:] if argv is None else argv) == ["--completion"]:
        print(completion(of_commands), end="")
        parser.exit()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        own = of_commands[args.command]
        own.error(_unknown(unknown[0], own))
    return COMMANDS[args.command], args


def _grouped() -> str:
    """The commands, by what they are for."""
    lines = []
    for title, names in PURPOSES.items():
        lines += ["", f"{title}:", *(f"  {name:<11}{COMMANDS[name].help}" for name in names)]
    return "\n".join([*lines[1:], "", "rsr-ray COMMAND --help shows the options of a command."])


def _unknown(given: str, parser: argparse.ArgumentParser) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    meant = did_you_mean(given.partition("=")[0], options)
    return f"unknown argument {given}" + f"; {meant}" * bool(meant)


def _add_options(parser: Parser, command: Command) -> None:
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
