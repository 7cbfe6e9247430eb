"""The record of a run, as it is stored."""

import importlib.metadata
import resource
from dataclasses import asdict
from typing import TYPE_CHECKING

import rsr_ray
from rsr_ray.schema import SCORES_VERSION
from rsr_ray.store.run_record import Equation, Estimate, RunRecord

if TYPE_CHECKING:
    from rsr_ray.run.ledger import Run

PACKAGES = ("ray", "torch", "transformers", "tokenizers", "pyarrow", "s3fs")


def make_record(run: "Run", seconds: float, estimate: Estimate | None) -> RunRecord:
    """What is stored as runs/<run_id>.json."""
    assert run.student is not None
    counts, units = run.counts, run.units
    padding = counts.padding_share
    return RunRecord(
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        scores_version=SCORES_VERSION,
        config=asdict(run.config),
        max_length=run.max_length,
        shape=run.shape,
        plan=asdict(run.reading) if run.reading else None,
        student=run.student,
        identity=run.identity,
        resources=run.resources,
        versions=_versions(),
        equation=_equation(run),
        reject_examples=counts.examples,
        replaced_while_read=units.replaced,
        broken_units=sorted(units.broken),
        not_in_corpus=asdict(units.absent) if units.absent else {},
        notes=units.notes,
        scored_tokens=counts.n_tokens,
        prompt_tokens=counts.n_prompt_tokens,
        padding_share=None if padding is None else round(padding, 4),
        out_of_memory_splits=counts.splits,
        seconds=round(seconds, 3),
        replica_seconds=round(counts.replica_seconds, 3),
        tokens_per_second=round(counts.n_all_tokens / seconds, 1),
        driver_peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        estimate=estimate,
    )


def _versions() -> dict[str, str]:
    return {"rsr_ray": rsr_ray.__version__} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def _equation(run: "Run") -> Equation:
    return Equation(
        read=run.n_read,
        scored=run.n_scored,
        rejected=dict(run.rejected.most_common()),
        already_scored=run.n_already,
        holds=run.n_read == run.n_counted,
    )
