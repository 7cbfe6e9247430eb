"""The parser of the command line, made from the table of commands and their settings."""

import argparse
import re
import sys
from typing import Any, NoReturn

import rsr_ray
from rsr_ray.cli.commands import COMMANDS, PURPOSES, Command
from rsr_ray.cli.completion import completion
from rsr_ray.credentials import scrub
from rsr_ray.errors import did_you_mean


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


class CommandParser(Parser):
    """The parser of one command: its options come with its settings, when they are needed."""

    def __init__(self, command: Command, **how: Any):
        super().__init__(**how)
        self._command: Command | None = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super(CommandParser, self.whole()).parse_known_args(args, namespace)

    def whole(self) -> "CommandParser":
        """Itself, with its options."""
        if self._command:
            from rsr_ray.cli.options import add_options

            add_options(self, self._command)
            self._command = None
        return self


def make_parser() -> tuple[Parser, dict[str, CommandParser]]:
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
        required=True,
        metavar="COMMAND",
        dest="command",
        help=argparse.SUPPRESS,
        prog="rsr-ray",
        parser_class=CommandParser,
    )
    of_commands = {
        name: added.add_parser(name, command=command) for name, command in COMMANDS.items()
    }
    return parser, of_commands


def parse(argv: list[str] | None) -> tuple[Command, argparse.Namespace]:
    """The command of a command line, and what it is given."""
    parser, of_commands = make_parser()
    if (sys.argv[1:] if argv is None else argv) == ["--completion"]:
        print(completion({name: own.whole() for name, own in of_commands.items()}), end="")
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
