"""doctor: what a run needs, looked at before a GPU-hour is spent, and what it would cost.

Every check ends in a finding: ok, a warning, or a failure that says what to do. Nothing is scored
into the store.
"""

from dataclasses import asdict
from typing import Any

from rsr_ray.config.score import ScoreConfig
from rsr_ray.run.doctor.engine import Speed, check_engine
from rsr_ray.run.doctor.estimate import Cost, estimate_cost
from rsr_ray.run.doctor.findings import Finding, Findings
from rsr_ray.run.doctor.room import check_cluster, check_room, check_store
from rsr_ray.run.doctor.sample import EncodedSample, Sample, Shown, check_corpus, check_rows
from rsr_ray.run.doctor.student import Renderer, check_student, check_template
from rsr_ray.student.facts import StudentFacts


class Doctor:
    """One examination of a run's settings: `examine` fills `findings`, `shown` and the estimate."""

    def __init__(self, config: ScoreConfig):
        self.config = config
        self._found = Findings()
        self._encoded = EncodedSample()
        self._speed: Speed | None = None
        self._cost: Cost | None = None

    @property
    def findings(self) -> list[Finding]:
        return self._found.all

    @property
    def shown(self) -> list[Shown]:
        return self._encoded.shown

    @property
    def failed(self) -> bool:
        return self._found.failed

    def to_json(self) -> dict[str, Any]:
        """The findings, and of the speed and the cost what is known."""
        parts = [asdict(part) for part in (self._speed, self._cost) if part]
        estimate = {name: value for part in parts for name, value in part.items()}
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "estimate": {name: value for name, value in estimate.items() if value is not None},
        }

    def examine(self) -> None:
        """Every check that can still be made after those that failed."""
        config, found = self.config, self._found
        facts = found.look_at("student", check_student, config)
        sample = found.look_at("corpus", check_corpus, config) or Sample([], 0.0)
        if facts:
            self._render(facts, sample)
        resources = found.look_at("cluster", check_cluster, config)
        if not resources or not facts:
            return
        run = (config, facts, resources)
        found.look_at("store", check_store, *run)
        if found.look_at("memory and disk", check_room, *run, sample.n_rows):
            self._speed = found.look_at("engine", check_engine, *run, self._encoded)
        ids = self._encoded.ids
        if ids:
            self._cost = found.look_at(
                "estimate", estimate_cost, facts, resources, sample.n_rows, ids, self._speed
            )

    def _render(self, facts: StudentFacts, sample: Sample) -> None:
        """The sample as the student would see it."""
        renderer = Renderer(self.config, facts)
        self._found.look_at("template", check_template, renderer)
        if sample.rows and not renderer.endless:
            most = self.config.max_rejects
            self._found.look_at("rows", check_rows, renderer, sample.rows, self._encoded, most)
        renderer.close()
