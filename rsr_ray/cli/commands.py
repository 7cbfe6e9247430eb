"""The commands: what each is for, the settings it takes, the function that does it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rsr_ray.cli import answers, runs, upkeep
from rsr_ray.config.answers import CompareConfig, CorrelateConfig, ReportConfig, TeachersConfig
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.config.demo import BenchConfig, DemoConfig, MetricsConfig
from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.race import RaceConfig
from rsr_ray.config.score import PreviewConfig, ScoreConfig
from rsr_ray.config.upkeep import CheckConfig, RejectsConfig, RescoreConfig

PURPOSES = {
    "look first": ("preview", "doctor"),
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
    config: type
    run: Callable[[Any, bool], int]  # of the config and --json: the exit code
    json: str = "print JSON"  # what --json does; empty where there is none
    only: tuple[str, ...] = ()  # settings that are options as well; none: all
    needs_config: bool = False
    config_help: str = "YAML file with these options; the command line takes precedence"

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
            config=ScoreConfig,
            run=runs.score,
        ),
        Command(
            name="nightly",
            help=(
                "score new trajectories for several students and report what changed since the "
                "previous night"
            ),
            config=NightlyConfig,
            run=runs.nightly,
            json="print the night's record as JSON",
            only=("night", "wait"),
            needs_config=True,
            config_help=(
                "YAML file with options of score for all students, and a list students: [...], "
                "each with its own options"
            ),
        ),
        Command(
            name="teachers",
            help="rank the teachers of a store and show how certain the ranking is",
            config=TeachersConfig,
            run=answers.teachers,
        ),
        Command(
            name="compare",
            help=(
                "compare two stores, students or nights and test whether the differences are more "
                "than noise"
            ),
            config=CompareConfig,
            run=answers.compare,
        ),
        Command(
            name="report",
            help="write the ranking and its evidence as a page, CSV, JSON and Markdown",
            config=ReportConfig,
            run=answers.report,
            json="",
        ),
        Command(
            name="correlate",
            help="correlate each metric with the student's accuracy after fine-tuning",
            config=CorrelateConfig,
            run=answers.correlate,
        ),
        Command(
            name="race",
            help="find the best teacher without scoring everything",
            config=RaceConfig,
            run=runs.race,
        ),
        Command(
            name="choose",
            help="write the best trajectories per prompt as training data",
            config=ChooseConfig,
            run=answers.choose,
        ),
        Command(
            name="arms",
            help="write several training sets to compare: exact quotas, the same tokens in each",
            config=ArmsConfig,
            run=answers.arms,
        ),
        Command(
            name="preview",
            help="show how rows are read and which text is scored, without Ray or weights",
            config=PreviewConfig,
            run=runs.preview,
        ),
        Command(
            name="doctor",
            help="check student, data, store and cluster before a run and estimate its cost",
            config=ScoreConfig,
            run=runs.doctor,
        ),
        Command(
            name="rejects",
            help="list rejected rows, or have the next run retry them",
            config=RejectsConfig,
            run=upkeep.rejects,
            json="print one JSON object per row",
        ),
        Command(
            name="check",
            help="verify every file of a store",
            config=CheckConfig,
            run=upkeep.check,
        ),
        Command(
            name="metrics",
            help="list the metrics with their formulas, directions and sources",
            config=MetricsConfig,
            run=upkeep.metrics,
        ),
        Command(
            name="rescore",
            help="recompute the metrics from stored token scores, without the student",
            config=RescoreConfig,
            run=upkeep.rescore,
        ),
        Command(
            name="demo",
            help="run the whole pipeline on generated data, on this machine",
            config=DemoConfig,
            run=runs.demo,
            json="",
        ),
        Command(
            name="bench",
            help="benchmark the engine against a naive implementation",
            config=BenchConfig,
            run=runs.bench,
        ),
    )
}
