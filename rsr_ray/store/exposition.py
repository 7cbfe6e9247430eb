"""The figures of a store as series for Prometheus: as OpenMetrics text, or pushed to a gateway.

A figure that is not there has no sample.
"""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

    from rsr_ray.store.figures import Figures

JOB = "rsr_ray"
SECONDS = 5.0  # that a gateway has to answer


@dataclass(frozen=True)
class Series:
    """A gauge, and where its value comes from: RunFigures or NightFigures."""

    name: str
    help: str
    value: Callable[[Any], float | None]


def _seconds(time: str | None) -> float | None:
    """Of a time in ISO 8601, since 1970."""
    return datetime.datetime.fromisoformat(time).timestamp() if time else None


OF_ENDS = (
    Series("ended_timestamp_seconds", "when the last {} ended", lambda of: _seconds(of.ended)),
    Series(
        "success_timestamp_seconds",
        "when a {} last succeeded",
        lambda of: _seconds(of.last_success),
    ),
    Series("failed", "1 if the last {} failed, else 0", lambda of: float(of.error is not None)),
    Series("seconds", "how long the last {} took", lambda of: of.seconds),
)
OF_RUN = (
    *(Series(f"rsr_run_{one.name}", one.help.format("run"), one.value) for one in OF_ENDS),
    Series(
        "rsr_run_new_trajectories",
        "trajectories that the last run scored",
        lambda run: run.new_trajectories,
    ),
    Series("rsr_run_rejected_rows", "rows that the last run rejected", lambda run: run.rejected),
    Series(
        "rsr_run_reject_share",
        "share of rejects in the rows that the last run read anew",
        lambda run: run.reject_share,
    ),
    Series(
        "rsr_run_tokens_per_second",
        "tokens per second of the whole last run, prompts included",
        lambda run: run.tokens_per_second,
    ),
    Series(
        "rsr_run_gpu_hours",
        "hours of the GPUs that the last run held, from its start to its end",
        lambda run: run.gpu_hours,
    ),
    Series(
        "rsr_run_place_changes",
        "teachers that have surely changed places since the previous night",
        lambda run: run.place_changes,
    ),
    Series(
        "rsr_trajectories",
        "trajectories of all teachers that the store has scores of",
        lambda run: run.trajectories,
    ),
)
OF_NIGHT = tuple(
    Series(f"rsr_night_{one.name}", one.help.format("night"), one.value) for one in OF_ENDS
)


class Exposed:
    """A collector of prometheus_client: the figures of one store."""

    def __init__(self, figures: "Figures", store: str):
        self.figures, self.store = figures, store

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        nights = [] if self.figures.night is None else [((self.store,), self.figures.night)]
        runs = [((self.store, name), run) for name, run in self.figures.students.items()]
        yield from _families(OF_NIGHT, ("store",), nights)
        yield from _families(OF_RUN, ("store", "student"), runs)


def _families(
    series: tuple[Series, ...], labels: tuple[str, ...], told: list[tuple[Any, Any]]
) -> Iterator["GaugeMetricFamily"]:
    """A family of samples for each of the series, from figures by the values of their labels."""
    from prometheus_client.core import GaugeMetricFamily

    for one in series:
        family = GaugeMetricFamily(one.name, one.help, labels=labels)
        for values, figures in told:
            if (value := one.value(figures)) is not None:
                family.add_metric(values, value)
        if family.samples:
            yield family


def openmetrics(figures: "Figures", store: str) -> bytes:
    """The text of all series."""
    from prometheus_client.openmetrics.exposition import generate_latest

    text: bytes = generate_latest(_registry(figures, store))  # type: ignore[no-untyped-call]
    return text


def push(gateway: str, figures: "Figures", store: str) -> None:
    """Replace what a Pushgateway has of the store. Raises OSError."""
    from prometheus_client import push_to_gateway

    registry = _registry(figures, store)
    push_to_gateway(gateway, JOB, registry, grouping_key={"store": store}, timeout=SECONDS)


def _registry(figures: "Figures", store: str) -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(Exposed(figures, store))
    return registry
