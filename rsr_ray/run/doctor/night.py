"""All students of a night: what doctor finds of each, and what is checked before any is scored."""

from dataclasses import dataclass
from typing import Any

from rsr_ray.config.nightly import NightlyConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError, counted
from rsr_ray.files.rights import check_readable
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.doctor.doctor import Examination, examine
from rsr_ray.run.doctor.estimate import in_words
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.student import Renderer, check_renders
from rsr_ray.store.store import Store
from rsr_ray.student.facts import identify, inspect_identified


@dataclass(frozen=True, kw_only=True)
class NightExamination:
    """What was found of each student of a night, by its name."""

    students: dict[str, Examination]

    @property
    def failed(self) -> bool:
        return any(found.failed for found in self.students.values())

    @property
    def hours(self) -> tuple[float | None, float | None]:
        """Of all students, one after the other, from and to; None if one's are not known."""
        costs = [found.cost for found in self.students.values()]
        low = [cost.hours_low for cost in costs if cost and cost.hours_low is not None]
        high = [cost.hours_high for cost in costs if cost and cost.hours_high is not None]
        return sum(low) if len(low) == len(costs) else None, (
            sum(high) if len(high) == len(costs) else None
        )

    @property
    def sentence(self) -> str:
        """What follows, in one line."""
        of = counted(len(self.students), "student")
        failed = {name: found for name, found in self.students.items() if found.failed}
        if not failed:
            each = " (one after the other)" if len(self.students) > 1 else ""
            return f"The night is ready: {of}; {in_words(*self.hours)}{each}"
        first = [
            f"{name} ({found.failures[0].check}: {found.failures[0].says})"
            for name, found in failed.items()
        ]
        return f"The night is not ready: {len(failed)} of {of} failed: {'; '.join(first)}"

    def to_json(self) -> dict[str, Any]:
        low, high = self.hours
        known = {} if low is None or high is None else {"hours_low": low, "hours_high": high}
        return {
            "ready": not self.failed,
            "says": self.sentence,
            "students": {name: found.to_json() for name, found in self.students.items()},
            "estimate": known,
        }


def examine_night(config: NightlyConfig) -> NightExamination:
    """What doctor finds of each student. A Ray that one of them needs is there for all."""
    first = config.students[0]
    with Cluster(first.ray_address, first.log, verbose=first.verbose) as cluster:
        return NightExamination(
            students={
                str(student.student_name): examine(student, cluster) for student in config.students
            }
        )


def check_students(config: NightlyConfig) -> None:
    """Raises UserError, which names each student whose files, template or settings are refused, or
    whose corpus may not be read.

    Of a student whose files are those of its last run only the settings are checked.
    """
    faults = []
    for student in config.students:
        found = Findings()
        found.look_at("student", _check_start, student)
        says = "; ".join(finding.says for finding in found.all if finding.level == "failure")
        if says:
            says = says.removeprefix(f"student {student.student}: ")
            faults.append(f"student {student.student_name} ({student.student}): {says}")
    if faults:
        of = f"{len(faults)} of {counted(len(config.students), 'student')}"
        why = "; ".join(faults).rstrip(".")
        raise UserError(
            f"nothing was scored, because {of} cannot be: {why}. Fix this, or take "
            f"{'it' if len(faults) == 1 else 'them'} out of the file, and rerun the command"
        )


def _check_start(findings: Findings, config: ScoreConfig) -> None:
    """Raises UserError, RunError or BadRow where a student's run could not start."""
    for uri in config.corpus:
        check_readable(uri, config.s3_endpoint)
    how = (config.student, config.trust_remote_code, config.template_text)
    identity = identify(*how)
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    last = store.last_run()
    if last is not None and last.identity == identity:
        facts = last.student
    else:
        facts = inspect_identified(identity, *how)
        renderer = Renderer(config, facts)
        try:
            check_renders(findings, renderer)
        finally:
            renderer.close()
    if last is not None:
        dtype = last.resources.dtype if config.dtype == "auto" else config.dtype
        limit = config.length_limit(facts)
        if not config.has_made(last, facts, dtype, limit):
            hash_of = config.hash_of(facts, dtype, limit)
            generation = store.find_generation(hash_of, config.beside)
            store.find_under(generation, new_generation=config.new_generation)
