"""The settings of `rsr-ray demo` and `rsr-ray bench`, and of `metrics`, which has none."""

from dataclasses import dataclass

from rsr_ray.config.options import check_least, option, settle


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What `rsr-ray demo` does."""

    out: str = option("folder for the corpus and the store", "rsr-demo", metavar="DIR")

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What `rsr-ray bench` does."""

    out: str = option("folder for the result", "rsr-bench", metavar="DIR")
    rounds: int = option("number of timing rounds; each runs both implementations", 3)

    def __post_init__(self) -> None:
        settle(self)
        check_least(self, 1, "rounds")


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """What `rsr-ray metrics` does."""
