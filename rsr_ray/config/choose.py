"""The settings of `rsr-ray choose`, and of all that chooses among scored trajectories."""

import functools
import math
from dataclasses import dataclass

from rsr_ray.config.options import (
    KEEP_DEGENERATE,
    S3_ENDPOINT,
    SEGMENT,
    as_mapping,
    check_column_pairs,
    check_least,
    check_role_pairs,
    option,
    settle,
    short_name,
)
from rsr_ray.corpus.images import Media
from rsr_ray.corpus.reading import Reading
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute, endpoint_of
from rsr_ray.metrics import CONTROLS, REGISTRY, Metric, find_metric


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Which scored trajectories may be chosen, and how their rows are read and written."""

    store: str = option("folder or URI of the scores")
    student: str = option("name of the student in the store, or its folder or hub id")
    out: str = option("folder or URI for the training data; it must be new or empty")
    by: str = option(
        f"metric to choose by (rsr-ray metrics lists them), or a control: {', '.join(CONTROLS)}",
        "rsr",
    )
    segment: str | None = option(SEGMENT, None)
    k: int = option("trajectories to keep per prompt, over all teachers and samples", 1)
    teachers: tuple[str, ...] = option("choose only from these teachers", ())
    exclude_teachers: tuple[str, ...] = option("exclude these teachers", ())
    min_tokens: int | None = option("leave out trajectories with fewer scored tokens", None)
    max_tokens: int | None = option("leave out trajectories with more scored tokens", None)
    keep_incomplete: bool = option(
        "keep answers that the corpus marks as cut off (complete, finish_reason, stop_reason, "
        "truncated)",
        False,
    )
    keep_degenerate: bool = option(KEEP_DEGENERATE, False)
    complete_only: bool = option(
        "also leave out trajectories that were truncated to the length limit", False
    )
    complete_column: str | None = option(
        "column that says whether an answer is complete; default: as read when it was scored",
        None,
    )
    verified: str | None = option(
        "column that says whether an answer is correct; only correct ones are chosen",
        None,
        metavar="COLUMN",
    )
    eval_set: str | None = option(
        "evaluation set (JSON Lines, JSON or Parquet); prompts that are in it, or close to one in "
        "it, are left out",
        None,
        metavar="FILE",
    )
    eval_column: str | None = option(
        "column of --eval-set with the prompt; default: messages, prompt, question, problem, ...",
        None,
    )
    eval_overlap: float = option(
        "share of 5-grams in common from which a prompt is close to another", 0.5
    )
    seed: int = option(
        "random seed for --by random and for the random choice that each choice is compared with",
        0,
    )
    format: str = option(
        "file format of the training data", "parquet", choices=("parquet", "jsonl")
    )
    keep: tuple[str, ...] = option(
        "columns of the corpus to keep, or none; default: all", (), metavar="COLUMN"
    )
    columns: tuple[str, ...] = option(
        "the --columns that the corpus was scored with", (), metavar="NAME=COLUMN"
    )
    roles: tuple[str, ...] = option(
        "the --roles that the corpus was scored with", (), metavar="NAME=ROLE"
    )
    media_root: str | None = option("the --media-root that the corpus was scored with", None)
    allow_http_media: bool = option(
        "fetch images that rows name by http(s) URLs, to tell that they are those scored", False
    )
    fingerprint: str | None = option(
        "fingerprint of the scores to use, if the store has several for the student", None
    )
    skip_missing: bool = option(
        "leave out trajectories whose shard is missing or was replaced since it was scored", False
    )
    overwrite: bool = option("replace an earlier choice in --out", False)
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    ray_address: str | None = option(
        "Ray cluster to use; default: RAY_ADDRESS, else a local one is started", None
    )
    verbose: bool = option("also show Ray's own progress bars and messages", False)

    def __post_init__(self) -> None:
        settle(self)
        for name in ("store", "out", "eval_set", "media_root"):
            if uri := getattr(self, name):
                object.__setattr__(self, name, absolute(uri))
        object.__setattr__(self, "student", short_name(self.student))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_column_pairs(self.columns)
        check_role_pairs(self.roles)
        check_least(self, 1, "k", "max_tokens")
        check_least(self, 0, "min_tokens", "seed")
        if not 0 < self.eval_overlap <= 1:
            raise UserError(f"--eval-overlap {self.eval_overlap:g}: must be above 0 and at most 1")
        if both := sorted({*self.teachers} & {*self.exclude_teachers}):
            raise UserError(
                f"--exclude-teachers {both[0]}: also listed in --teachers; remove it from one of "
                "them"
            )
        for name in ("complete_only", "complete_column"):
            if self.keep_incomplete and getattr(self, name):
                raise UserError(
                    f"--keep-incomplete contradicts --{name.replace('_', '-')}: pass only one of "
                    "them"
                )
        if (self.min_tokens or 0) > (self.max_tokens or math.inf):
            raise UserError(
                f"--min-tokens {self.min_tokens} is greater than --max-tokens {self.max_tokens}: "
                "no trajectory satisfies both"
            )

    @property
    def criterion(self) -> str:
        """What the choice goes by, in words: "rsr on reasoning"."""
        return self.metric.name if self.metric else self.by

    @functools.cached_property
    def metric(self) -> Metric | None:
        """What `by` names; None for a control."""
        return None if self.by in CONTROLS else find_metric(self.by, self.segment)

    @property
    def reading(self) -> Reading:
        """How these settings say that rows are read."""
        return Reading(
            columns=as_mapping(self.columns),
            roles=as_mapping(self.roles),
            media=Media(self.media_root, self.allow_http_media),
        )


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(PoolConfig):
    """What `rsr-ray choose` does."""

    max_share: float | None = option(
        "largest share of the chosen set that one teacher may have", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in CONTROLS and self.by not in REGISTRY:
            raise UserError(
                f"--by {self.by}: no such metric; choose {', '.join((*REGISTRY, *CONTROLS))}"
            )
        if self.segment and self.by in CONTROLS:
            raise UserError(f"--segment {self.segment}: --by {self.by} has no segments")
        if self.better == "-":
            raise UserError(
                f"--by {self.by}: this metric has no direction; use longest or shortest"
            )
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise UserError(f"--max-share {self.max_share:g}: must be above 0 and at most 1")

    @property
    def better(self) -> str:
        """Which values of `by` are better: lower, or higher."""
        return self.metric.better if self.metric else CONTROLS[self.by][1]
