"""The settings of `rsr-ray arms`."""

from dataclasses import dataclass

from rsr_ray.config.choose import PoolConfig
from rsr_ray.config.options import check_least, option
from rsr_ray.errors import UserError, did_you_mean
from rsr_ray.metrics import REGISTRY, find_metric

BY_METRIC = ("low", "middle", "high")  # by their place within their teacher
COPIES = {f"matched-{name}": name for name in BY_METRIC}  # control -> the arm it has the lengths of
ARMS = (*BY_METRIC, "random", *COPIES)
MATCHES = ("tokens", "flops", "prompts")


@dataclass(frozen=True, kw_only=True)
class ArmsConfig(PoolConfig):
    """What `rsr-ray arms` does."""

    by: str = option("metric that defines low, middle and high (rsr-ray metrics lists them)", "rsr")
    k: int = option("maximum trajectories per prompt in an arm", 1)
    arms: tuple[str, ...] = option(
        f"arms to write: {', '.join(ARMS)}; matched-ARM is random with the lengths of ARM",
        ("low", "high", "random"),
        metavar="ARM",
    )
    per_teacher: int | None = option("trajectories per teacher in each arm", None)
    quotas: tuple[str, ...] = option(
        "trajectories of each named teacher in each arm; other teachers are left out",
        (),
        metavar="TEACHER=N",
    )
    match: tuple[str, ...] = option(
        "what all arms match in: target tokens or training FLOPs within --tolerance, prompts "
        "exactly; or none",
        ("tokens",),
        metavar="{tokens,flops,prompts,none}",
    )
    tokens: int | None = option(
        "target tokens of each arm; default: the average of a random draw", None
    )
    tolerance: float = option(
        "largest relative difference between the largest and the smallest arm", 1e-3
    )
    disjoint: str = option(
        "what no two arms may share: trajectories, prompts (and thus trajectories), or none (arms "
        "may overlap)",
        "trajectories",
        choices=("trajectories", "prompts", "none"),
    )
    trainer_length: int | None = option(
        "tokens at which the trainer cuts a row; prompts with a longer row are left out", None
    )
    audit: bool = option(
        "encode the written files as a trainer does and compare the tokens with the scored ones; "
        "needs the student's tokenizer",
        False,
    )
    seed: int = option(
        "random seed for the random arms and the order in which prompts are tried", 0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in REGISTRY:
            raise UserError(f"--by {self.by}: no such metric; choose {', '.join(REGISTRY)}")
        find_metric(self.by, self.segment)  # refuses a segment that the metric does not have
        self._check_arms()
        self._check_quotas()
        for name in self.match:
            if name not in (*MATCHES, "none"):
                raise UserError(f"--match {name}: choose {', '.join(MATCHES)} or none")
        if "none" in self.match and len(self.match) > 1:
            raise UserError("--match none cannot be combined with other values")
        if self.tokens is not None and "tokens" not in self.match:
            raise UserError("--tokens requires --match tokens")
        if self.disjoint == "prompts" and "prompts" in self.match:
            raise UserError("--disjoint prompts contradicts --match prompts: pass only one of them")
        if not 0 < self.tolerance < 1:
            raise UserError(
                f"--tolerance {self.tolerance:g}: must be between 0 and 1 (for 0.1%, use 0.001)"
            )
        check_least(self, 1, "tokens", "trainer_length")

    def _check_arms(self) -> None:
        """Raise UserError for arms that there are none of, or that miss another."""
        for name in self.arms:
            if name not in ARMS:
                meant = did_you_mean(name, ARMS) or f"choose {', '.join(ARMS)}"
                raise UserError(f"--arms {name}: {meant}")
            if name in COPIES and COPIES[name] not in self.arms:
                arm = COPIES[name]
                raise UserError(f"--arms {name} copies the lengths of {arm}; add {arm}")
        if len(self.arms) < 2 or len({*self.arms}) < len(self.arms):
            raise UserError(f"--arms {' '.join(self.arms)}: name at least two different arms")

    def _check_quotas(self) -> None:
        """Raise UserError unless it is said how many rows there are of each teacher."""
        if (self.per_teacher is None) == (not self.quotas):
            raise UserError(
                "pass either --per-teacher N or --quotas TEACHER=N ...: trajectories in each arm"
            )
        check_least(self, 1, "per_teacher")
        for pair in self.quotas:
            teacher, _, n = pair.rpartition("=")
            if not teacher or not n.isdecimal() or not int(n):
                raise UserError(f"--quotas {pair}: use TEACHER=N with N at least 1")
        if len(self.quota) < len(self.quotas):
            raise UserError("--quotas: a teacher appears twice; remove one")
        if missing := sorted({*self.quota} - {*self.teachers}) if self.teachers else []:
            raise UserError(f"--quotas {missing[0]}: not in --teachers; add it there")

    @property
    def quota(self) -> dict[str, int]:
        """Rows of each teacher that --quotas names."""
        pairs = (pair.rpartition("=") for pair in self.quotas)
        return {teacher: int(n) for teacher, _, n in pairs}
