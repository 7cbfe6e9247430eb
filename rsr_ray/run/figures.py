"""What outlives a run: written to its store when it ends, and pushed where that is asked for.

Nothing that goes wrong here fails a run.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from rsr_ray.errors import one_line, safe
from rsr_ray.store.exposition import push
from rsr_ray.store.figures import (
    PLACE,
    Figures,
    NightFigures,
    RunFigures,
    read_figures,
    update_figures,
)
from rsr_ray.store.records import read_as
from rsr_ray.store.run_record import Estimate
from rsr_ray.watch import log

if TYPE_CHECKING:
    from rsr_ray.config.score import ScoreConfig
    from rsr_ray.run.doctor.estimate import Cost
    from rsr_ray.run.ledger import Run


def note_run(run: "Run", error: str | None, place_changes: int | None = None) -> None:
    """Note how a run ended; `error` says why it failed."""
    figures = run_figures(run, error, place_changes)
    student = str(run.config.student_name)
    _note(run.config, error, lambda known: known.with_run(student, figures))


def note_night(config: "ScoreConfig", night: str, error: str | None, begun: float) -> None:
    """Note how a night ended that began at a time of the monotonic clock."""
    figures = NightFigures(
        night=night, ended=_now(), error=_short(error), seconds=_seconds_since(begun)
    )
    _note(config, error, lambda known: known.with_night(figures))


def note_estimate(config: "ScoreConfig", fingerprint: str, cost: "Cost") -> None:
    """Note what doctor expects of the next run of a student, for that run's record; the fingerprint
    is of what the run asks for beside the scores too.
    """
    made = {"made": _now(), "fingerprint": fingerprint}
    estimate = read_as(Estimate, asdict(cost) | made)
    student = str(config.student_name)

    def added(figures: Figures) -> Figures:
        return replace(figures, estimates={**figures.estimates, student: estimate})

    _note(config, None, added)


def expected_of(run: "Run") -> Estimate | None:
    """What doctor expected of a run under the same settings; None where it was not asked."""
    config = run.config
    try:
        estimates = read_figures(config.store, config.s3_endpoint).estimates
    except OSError:  # the scores are written; noting the run's figures will say so
        return None
    found = estimates.get(str(config.student_name))
    return found if found and found.fingerprint == run.settings_hash else None


def run_figures(run: "Run", error: str | None, place_changes: int | None) -> RunFigures:
    """What a run came to, whole or not."""
    counts, resources = run.counts, run.resources
    seconds = _seconds_since(run.begun)
    n_rejected = run.rejected.total()
    n_new = run.n_scored + n_rejected
    n_gpus = resources.replicas * resources.gpus_per_replica
    teachers = run.teachers
    return RunFigures(
        run_id=run.run_id,
        ended=_now(),
        error=_short(error),
        seconds=seconds,
        new_trajectories=run.n_scored,
        rejected=n_rejected,
        reject_share=round(n_rejected / n_new, 6) if n_new else None,
        tokens_per_second=round(counts.n_all_tokens / seconds, 1) if counts.n_scored else None,
        gpu_hours=round(n_gpus * seconds / 3600, 6),
        trajectories=None if teachers is None else pc.sum(teachers["n_trajectories"]).as_py() or 0,
        place_changes=place_changes,
    )


def _note(config: "ScoreConfig", error: str | None, change: Callable[[Figures], Figures]) -> None:
    try:
        figures = update_figures(config.store, config.s3_endpoint, change)
    except Exception as e:  # what broke the run may break this too, and has been said
        level = logging.INFO if error else logging.WARNING
        what = "could not be written; the scores are not affected"
        log.log(level, "rsr-ray: %s/%s %s: %s", config.store, PLACE, what, safe(one_line(e)))
        return
    if config.pushgateway:
        try:
            push(config.pushgateway, figures, config.store)
        except Exception as e:
            what = "no figures pushed; the scores are not affected"
            log.warning("rsr-ray: --pushgateway %s: %s: %s", config.pushgateway, what, one_line(e))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _seconds_since(begun: float) -> float:
    return round(max(0.001, time.monotonic() - begun), 3)


def _short(error: str | None) -> str | None:
    return error and one_line(error, 500)
