"""The settings of the commands that answer from a store: teachers, compare, report, correlate."""

from dataclasses import dataclass

from rsr_ray.config.options import S3_ENDPOINT, check_least, option, settle, short_name
from rsr_ray.errors import UserError
from rsr_ray.files.objects import absolute, endpoint_of

BY = "metric to {} by (rsr-ray metrics lists them)"
CONFIDENCE = "confidence level"
SEED = "random seed of the bootstrap"
ONLY = "rank only these teachers, on the prompts that they share"


def check_certainty(config: "TeachersConfig | CompareConfig | ReportConfig") -> None:
    """Raise UserError for a confidence or a seed out of range."""
    if not 0 < config.confidence < 1:
        raise UserError(
            f"--confidence {config.confidence:g}: must be between 0 and 1 (0.95 for 95%)"
        )
    check_least(config, 0, "seed")


@dataclass(frozen=True, kw_only=True)
class TeachersConfig:
    """What `rsr-ray teachers` does."""

    store: str = option("folder or URI of the scores")
    student: str = option(
        "name of the student in the store, or its folder or hub id", metavar="NAME"
    )
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    by: str = option(BY.format("rank"), "rsr", metavar="METRIC")
    teachers: tuple[str, ...] = option(ONLY, ())
    confidence: float = option(CONFIDENCE, 0.95, metavar="P")
    seed: int = option(SEED, 0)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "student", short_name(self.student))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_certainty(self)


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
