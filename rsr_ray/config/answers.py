"""The settings of the commands that answer from a store: teachers, compare, report, correlate."""

import math
import re
from dataclasses import dataclass

from rsr_ray.config.options import S3_ENDPOINT, SEGMENT, check_least, option, settle, short_name
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute, endpoint_of

BY = "metric to {} by (rsr-ray metrics lists them)"
CONFIDENCE = "confidence level"
SEED = "random seed of the bootstrap"
ONLY = "rank only these teachers, on the prompts that they share"
BY_STRATUM = (
    "rank within each value of this column, which `score --stratum COLUMN` kept, and over all of "
    "them"
)
WEIGHTS = "weights of the strata in the overall ranking; default: equal"
# A name may have commas and = of its own.
WEIGHT = re.compile(r"(?P<name>.+?)=(?P<weight>[^=,]+)(?:,|$)")


def check_certainty(config: "TeachersConfig | CompareConfig | ReportConfig") -> None:
    """Raise UserError for a confidence or a seed out of range."""
    if not 0 < config.confidence < 1:
        raise UserError(
            f"--confidence {config.confidence:g}: must be between 0 and 1 (0.95 for 95%)"
        )
    check_least(config, 0, "seed")


def weights_of(config: "TeachersConfig | ReportConfig") -> dict[str, float] | None:
    """--stratum-weights by stratum; None where none are given. Raises UserError."""
    if config.stratum_weights and not config.by_stratum:
        raise UserError("--stratum-weights requires --by-stratum")
    weights: dict[str, float] = {}
    for text in config.stratum_weights:
        found = list(WEIGHT.finditer(text))
        if "".join(match[0] for match in found) != text:
            raise UserError(f"--stratum-weights {text}: give NAME=WEIGHT, such as math=2,code=1")
        for match in found:
            try:
                weights[match["name"]] = float(match["weight"])
            except ValueError:
                weights[match["name"]] = math.nan
            if not 0 <= weights[match["name"]] < math.inf:
                raise UserError(f"--stratum-weights {match[0]}: give a number, 0 or more")
    return weights or None


@dataclass(frozen=True, kw_only=True)
class TeachersConfig:
    """What `rsr-ray teachers` does."""

    store: str = option("folder or URI of the scores")
    student: str = option(
        "name of the student in the store, or its folder or hub id", metavar="NAME"
    )
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    by: str = option(BY.format("rank"), "rsr", metavar="METRIC")
    segment: str | None = option(SEGMENT, None)
    teachers: tuple[str, ...] = option(ONLY, ())
    verified: str | None = option(
        "column of the corpus that says whether an answer is correct: adds the metric against it "
        "and against length within prompts, and the ranking on correct answers only",
        None,
        metavar="COLUMN",
    )
    by_stratum: str | None = option(BY_STRATUM, None, metavar="COLUMN")
    stratum_weights: tuple[str, ...] = option(WEIGHTS, (), metavar="NAME=WEIGHT")
    confidence: float = option(CONFIDENCE, 0.95, metavar="P")
    seed: int = option(SEED, 0)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "student", short_name(self.student))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_certainty(self)
        weights_of(self)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What `rsr-ray compare` does."""

    a: str = option(
        "STORE, STORE#STUDENT, STORE#STUDENT@NIGHT or STORE#@NIGHT; STUDENT may be omitted if the "
        "store has only one",
        positional=True,
    )
    b: str = option("the other side, in the same format", positional=True)
    by: str = option(BY.format("compare"), "rsr", metavar="METRIC")
    anyway: bool = option(
        "compare even if the two sides were scored under different settings", False
    )
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    confidence: float = option(CONFIDENCE, 0.95, metavar="P")
    seed: int = option(SEED, 0)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_certainty(self)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What `rsr-ray report` does."""

    store: str = option("folder or URI of the scores")
    student: tuple[str, ...] = option("students of the store; default: all", ())
    out: str = option(
        "folder or URI for index.html, teachers.csv, teachers.json and summary.md", metavar="DIR"
    )
    by: str = option(BY.format("rank"), "rsr", metavar="METRIC")
    confidence: float = option(CONFIDENCE, 0.95, metavar="P")
    seed: int = option(SEED, 0)
    teachers: tuple[str, ...] = option(ONLY, ())
    by_stratum: str | None = option(BY_STRATUM, None, metavar="COLUMN")
    stratum_weights: tuple[str, ...] = option(WEIGHTS, (), metavar="NAME=WEIGHT")
    tokens_from: str | None = option(
        "folder or hub id of the student, to score the tokens of the shown trajectories if the "
        "store has no token scores",
        None,
        metavar="STUDENT",
    )
    s3_endpoint: str | None = option(S3_ENDPOINT, None)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "student", tuple(map(short_name, self.student)))
        object.__setattr__(self, "out", absolute(self.out))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_certainty(self)
        weights_of(self)


@dataclass(frozen=True, kw_only=True)
class CorrelateConfig:
    """What `rsr-ray correlate` does."""

    table: str | None = option(
        "CSV, Parquet or JSON file with columns student, teacher, accuracy and one per metric",
        None,
        metavar="FILE",
    )
    store: str | None = option("folder or URI of the scores; needs --accuracies", None)
    accuracies: str | None = option(
        "CSV, Parquet or JSON file with columns student (its name in the store), teacher and "
        "accuracy",
        None,
        metavar="FILE",
    )
    by: tuple[str, ...] = option("correlate only these metrics", (), metavar="METRIC")
    without: tuple[str, ...] = option("leave these teachers out", (), metavar="TEACHER")
    set: tuple[str, ...] = option(
        "replace cells of the table before correlating", (), metavar="STUDENT/TEACHER/COLUMN=VALUE"
    )
    permutations: int = option("number of permutations for the p-values", 10_000)
    s3_endpoint: str | None = option(S3_ENDPOINT, None)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_least(self, 1, "permutations")
        if (self.table is None) == (self.store is None):
            raise UserError("pass either --table, or --store with --accuracies")
        if (self.store is None) != (self.accuracies is None):
            raise UserError("--store and --accuracies must be used together")
