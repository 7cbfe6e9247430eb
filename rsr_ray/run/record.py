"""The record of a run, as it is stored."""

import importlib.metadata
import resource
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import rsr_ray
from rsr_ray.schema import SCORES_VERSION

if TYPE_CHECKING:
    from rsr_ray.run.ledger import Run

PACKAGES = ("ray", "torch", "transformers", "tokenizers", "pyarrow", "s3fs")


def make_record(run: "Run", seconds: float) -> dict[str, Any]:
    """What is stored as runs/<run_id>.json."""
    assert run.student is not None
    resources = run.resources
    is_idle = not resources.replicas  # nothing was to be scored
    return {
        "run_id": run.run_id,
        "fingerprint": run.fingerprint,
        "scores_version": SCORES_VERSION,
        "config": asdict(run.config),
        "max_length": run.max_length,
        "shape": run.shape,
        "plan": asdict(run.reading) if run.reading else None,
        "student": asdict(run.student),
        "identity": run.identity,
        "resources": {"replicas": 0, "dtype": resources.dtype} if is_idle else asdict(resources),
        "versions": {"rsr_ray": rsr_ray.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "equation": {
            "read": run.n_read,
            "scored": run.n_scored,
            "rejected": dict(run.rejected.most_common()),
            "already_scored": run.n_already,
            "holds": run.n_read == run.n_counted,
        },
        "reject_examples": run.counts.examples,
        "replaced_while_read": run.units.replaced,
        "broken_units": sorted(run.units.broken),
        "not_in_corpus": asdict(run.units.absent) if run.units.absent else {},
        "notes": run.units.notes,
        **_work(run, seconds),
    }


def _work(run: "Run", seconds: float) -> dict[str, Any]:
    """What went through the student, and what it took."""
    counts = run.counts
    padding = counts.padding_share
    return {
        "scored_tokens": counts.n_tokens,
        "prompt_tokens": counts.n_prompt_tokens,
        "padding_share": None if padding is None else round(padding, 4),
        "out_of_memory_splits": counts.splits,
        "seconds": round(seconds, 3),
        "replica_seconds": round(counts.replica_seconds, 3),
        "tokens_per_second": round(counts.n_all_tokens / seconds, 1),
        "driver_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
