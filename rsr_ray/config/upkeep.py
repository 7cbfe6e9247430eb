"""The settings of the commands that look after a store: rejects, check, status, rescore."""

from dataclasses import dataclass

from rsr_ray.config.options import S3_ENDPOINT, check_least, option, settle, short_name
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute, endpoint_of
from rsr_ray.schema import REJECT_REASONS

STUDENT = "name of the student in the store, or its folder or hub id"


@dataclass(frozen=True, kw_only=True)
class RejectsConfig:
    """What `rsr-ray rejects` does."""

    store: str = option("folder or URI of the scores")
    student: str = option(STUDENT, metavar="NAME")
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    reason: str | None = option(
        "only rows rejected for REASON",
        None,
        choices=tuple(sorted(REJECT_REASONS)),
        metavar="REASON",
    )
    retry: bool = option("delete their work units, so that the next run scores them again", False)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "student", short_name(self.student))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What `rsr-ray check` does."""

    store: str = option("folder or URI of the scores")
    student: str | None = option(
        "only the files of this student; default: the whole store", None, metavar="NAME"
    )
    repair: bool = option("remove broken files; the next run recreates them", False)
    s3_endpoint: str | None = option(S3_ENDPOINT, None)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "student", self.student and short_name(self.student))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """What `rsr-ray status` does."""

    store: str = option("folder or URI of the scores")
    s3_endpoint: str | None = option(S3_ENDPOINT, None)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))


@dataclass(frozen=True, kw_only=True)
class RescoreConfig:
    """What `rsr-ray rescore` does."""

    store: str = option("folder or URI of the scores")
    student: str = option(STUDENT, metavar="NAME")
    s3_endpoint: str | None = option(S3_ENDPOINT, None)
    r_max: int | None = option(
        "clip token ranks at N; default: the r_max they were scored with", None
    )
    out: str | None = option(
        "store to write the scores to; default: only compare them with the stored scores",
        None,
        metavar="STORE",
    )
    ray_address: str | None = option(
        "Ray cluster to use; default: RAY_ADDRESS, else a local one is started", None
    )

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(self, "student", short_name(self.student))
        object.__setattr__(self, "s3_endpoint", endpoint_of(self.s3_endpoint))
        check_least(self, 1, "r_max")
        if self.out and absolute(self.out) == absolute(self.store):
            raise UserError(
                f"--out {self.out} is the store itself, whose scores must stay as the run wrote "
                "them; name another store"
            )
        if self.r_max and not self.out:
            raise UserError("--r-max changes the scores: name another store for them with --out")
