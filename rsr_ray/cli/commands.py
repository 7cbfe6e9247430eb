"""The commands: what each is for, the settings it takes, the function that does it.

A command's modules are imported when it is used: `rsr-ray --help` may not wait for them.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

PURPOSES = {
    "look first": ("preview", "doctor", "status"),
    "run": ("score", "race", "nightly"),
    "decide": ("teachers", "compare", "choose", "arms", "report"),
    "check the method": ("correlate", "metrics", "rescore", "bench"),
    "fix": ("rejects", "check"),
    "try": ("demo",),
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of rsr-ray: an option and a YAML key for each of its settings."""

    name: str
    help: str
    home: str  # the module of rsr_ray.cli with its function, which has its name
    takes: str  # its config, as "module:Class" of rsr_ray.config
    json: str = "print JSON"  # what --json does; empty where there is none
    only: tuple[str, ...] = ()  # settings that are options as well; none: all
    needs_config: bool = False
    config_help: str = "YAML file with these options; the command line takes precedence"

    @property
    def config(self) -> type:
        config: type = resolve_name(f"rsr_ray.config.{self.takes}")
        return config

    @property
    def run(self) -> Callable[[Any, bool], int]:
        """Takes the config and whether to print JSON; returns the exit code."""
        run: Callable[[Any, bool], int] = resolve_name(f"rsr_ray.cli.{self.home}:{self.name}")
        return run

    @property
    def settings(self) -> list[dataclasses.Field[Any]]:
        """Those that are options of the command line."""
        fields = dataclasses.fields(self.config)
        return [field for field in fields if not self.only or field.name in self.only]


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="score",
            help="score a corpus under a student and rank its teachers",
            home="runs",
            takes="score:ScoreConfig",
        ),
        Command(
            name="nightly",
            help=(
                "score new trajectories for several students and report what changed since the "
                "previous night"
            ),
            home="runs",
            takes="nightly:NightlyConfig",
            json="print the night's record as JSON",
            only=("night", "check", "wait"),
            needs_config=True,
            config_help=(
                "YAML file with options of score for all students, and a list students: [...], "
                "each with its own options"
            ),
        ),
        Command(
            name="teachers",
            help="rank the teachers of a store and show how certain the ranking is",
            home="answers",
            takes="answers:TeachersConfig",
        ),
        Command(
            name="compare",
            help=(
                "compare two stores, students or nights and test whether the differences are more "
                "than noise"
            ),
            home="answers",
            takes="answers:CompareConfig",
        ),
        Command(
            name="report",
            help="write the ranking and its evidence as a page, CSV, JSON and Markdown",
            home="answers",
            takes="answers:ReportConfig",
            json="",
        ),
        Command(
            name="correlate",
            help="correlate each metric with the student's accuracy after fine-tuning",
            home="answers",
            takes="answers:CorrelateConfig",
        ),
        Command(
            name="race",
            help="find the best teacher without scoring everything",
            home="runs",
            takes="race:RaceConfig",
        ),
        Command(
            name="choose",
            help="write the best trajectories per prompt as training data",
            home="answers",
            takes="choose:ChooseConfig",
        ),
        Command(
            name="arms",
            help="write several training sets to compare: exact quotas, the same tokens in each",
            home="answers",
            takes="arms:ArmsConfig",
        ),
        Command(
            name="preview",
            help="show how rows are read and which text is scored, without Ray or weights",
            home="runs",
            takes="score:PreviewConfig",
        ),
        Command(
            name="doctor",
            help="check student, data, store and cluster before a run and estimate its cost",
            home="runs",
            takes="score:ScoreConfig",
            config_help=(
                "YAML file with these options, or a nightly file, of which every student is "
                "checked; the command line takes precedence"
            ),
        ),
        Command(
            name="status",
            help="show what is in a store, what ran last and what is running",
            home="upkeep",
            takes="upkeep:StatusConfig",
        ),
        Command(
            name="rejects",
            help="list rejected rows, or have the next run retry them",
            home="upkeep",
            takes="upkeep:RejectsConfig",
            json="print one JSON object per row",
        ),
        Command(
            name="check",
            help="verify every file of a store",
            home="upkeep",
            takes="upkeep:CheckConfig",
        ),
        Command(
            name="metrics",
            help="list the metrics with their formulas, directions and sources",
            home="upkeep",
            takes="demo:MetricsConfig",
        ),
        Command(
            name="rescore",
            help="recompute the metrics from stored token scores, without the student",
            home="upkeep",
            takes="upkeep:RescoreConfig",
        ),
        Command(
            name="demo",
            help="run the whole pipeline on generated data, on this machine",
            home="runs",
            takes="demo:DemoConfig",
            json="",
        ),
        Command(
            name="bench",
            help="benchmark the engine against a naive implementation",
            home="runs",
            takes="demo:BenchConfig",
        ),
    )
}
