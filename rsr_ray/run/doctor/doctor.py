"""doctor: what a run needs, looked at before a GPU-hour is spent, and what it would cost.

Every check ends in a finding: ok, a warning, or a failure that says what to do. Nothing is scored
into the store.
"""

from dataclasses import asdict, dataclass
from typing import Any

from rsr_ray.config.score import ScoreConfig
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.doctor.engine import Speed, check_engine
from rsr_ray.run.doctor.estimate import Cost, Load, estimate_cost
from rsr_ray.run.doctor.findings import Finding, Findings
from rsr_ray.run.doctor.room import check_cluster, check_room, check_store
from rsr_ray.run.doctor.sample import EncodedSample, Sample, Shown, check_corpus, check_rows
from rsr_ray.run.doctor.student import Renderer, check_student, check_template
from rsr_ray.run.figures import note_estimate
from rsr_ray.run.here import fits_here
from rsr_ray.student.facts import StudentFacts

SHOWN = 10  # rows of the sample


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found out about a run's settings, and what the run would cost, if that is known."""

    findings: tuple[Finding, ...]
    shown: tuple[Shown, ...]
    speed: Speed | None
    cost: Cost | None

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "failure"]

    @property
    def failed(self) -> bool:
        return bool(self.failures)

    def to_json(self) -> dict[str, Any]:
        """The findings, and of the speed and the cost what is known."""
        parts = [asdict(part) for part in (self.speed, self.cost) if part]
        estimate = {name: value for part in parts for name, value in part.items()}
        return {
            "ready": not self.failed,
            "findings": [asdict(finding) for finding in self.findings],
            "estimate": {name: value for name, value in estimate.items() if value is not None},
        }


def examine(config: ScoreConfig, cluster: Cluster | None = None) -> Examination:
    """Every check that can still be made after those that failed."""
    cluster = cluster or Cluster(config.ray_address, config.log, verbose=config.verbose)
    found, encoded = Findings(), EncodedSample()
    facts = found.look_at("student", check_student, config)
    sample = found.look_at("corpus", check_corpus, config, facts) or Sample()
    speed, cost = None, None
    if facts:
        _render(found, config, facts, sample, encoded)
        speed, cost = _look_ahead(found, config, facts, cluster, sample, encoded)
    step = max(1, len(encoded.shown) // SHOWN)
    shown = tuple(encoded.shown[::step][:SHOWN])
    return Examination(findings=tuple(found.all), shown=shown, speed=speed, cost=cost)


def _render(
    found: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    sample: Sample,
    encoded: EncodedSample,
) -> None:
    """The sample as the student would see it."""
    renderer = Renderer(config, facts)
    found.look_at("template", check_template, renderer)
    if sample.rows and not renderer.endless:
        found.look_at("rows", check_rows, renderer, sample, encoded, config.max_rejects)
    renderer.close()


def _look_ahead(
    found: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    cluster: Cluster,
    sample: Sample,
    encoded: EncodedSample,
) -> tuple[Speed | None, Cost | None]:
    """Where it would run, and how long."""
    uris = [file.uri for file in sample.files]
    is_here = fits_here(config, cluster, uris, sample.n_bytes)
    where = None if is_here else cluster
    resources = found.look_at("cluster", check_cluster, config, facts, sample.n_bytes, where)
    if not resources:
        return None, None
    run = (config, facts, resources)
    left = found.look_at("store", check_store, *run, sample.files)
    left = sample.files if left is None else left
    n_bytes = sum(file.size for file in left)
    speed, cost = None, None
    n_rows = sample.n_rows * n_bytes / max(1, sample.n_bytes)
    if found.look_at("memory and disk", check_room, *run, n_rows):
        speed = found.look_at("engine", check_engine, *run, encoded)
    if encoded.ids:
        load = Load.of(sample, encoded, n_bytes, len(left))
        cost = found.look_at("estimate", estimate_cost, *run, load, speed, is_here)
    if cost and cost.hours and not any(one.level == "failure" for one in found.all):
        hash_of = config.hash_of(facts, resources.dtype, config.length_limit(facts))
        note_estimate(config, hash_of(config.beside), cost)
    return speed, cost
