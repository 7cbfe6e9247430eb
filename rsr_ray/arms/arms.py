"""arms: scores -> several training sets that differ in what they are chosen by, and a manifest.

The candidates of a choice lie in partitions of whole prompts; `partitions.offer` tells this process
a few numbers of each, `solve_request` finds the arms, `partitions.take` picks their rows, and these
are written as a choice is. Nothing depends on the order of shards or the number of CPUs.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rsr_ray.arms.audit import audit_arms
from rsr_ray.arms.flops import training_flops
from rsr_ray.arms.manifest import (
    Arm,
    ArmsManifest,
    Audit,
    describe_arms,
    formula,
    in_common,
    spread_of,
)
from rsr_ray.arms.partitions import Found, named_rows, offer, sums_of_arms, take
from rsr_ray.arms.pool import Request
from rsr_ray.arms.solve import solve_request
from rsr_ray.arms.write import write_arms
from rsr_ray.choose.candidates import Candidates
from rsr_ray.choose.choose import (
    LOST,
    find_files,
    n_objects,
    notes,
    read_candidates,
    read_offers,
    rows_in,
    summaries_of,
)
from rsr_ray.choose.files import WHOLE, clear, refuse_foreign
from rsr_ray.choose.manifest import Criterion, most_frequent_first, versions_of
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.errors import RunError, UserError, did_you_mean
from rsr_ray.files.objects import put
from rsr_ray.metrics import find_metric
from rsr_ray.run.display import at_stage
from rsr_ray.schema import DROPPED
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store

if TYPE_CHECKING:
    import ray.data

ROUNDS = 5  # of leaving out prompts with rows that the trainer cuts


@dataclass(frozen=True)
class Scores:
    """Where the scores of a request come from."""

    store: Store
    fingerprint: str
    files: list[ScoreFile]


@dataclass(frozen=True)
class Draft:
    """Arms before they are written."""

    found: Found
    request: Request
    chosen: np.ndarray  # bool [A, N], of the request's candidates
    rows: "ray.data.Dataset"  # OF_ARMS
    arms: list[Arm]


def make_arms(config: ArmsConfig) -> ArmsManifest:
    """Write each arm to a folder of `config.out`, as files that trainers load, and manifest.json.

    Raises UserError for what the user can fix, also where there are no such arms, and RunError for
    a broken run.
    """
    from rsr_ray.run.cluster import Cluster

    store = Store(config.store, config.student, config.s3_endpoint)
    scores = Scores(store, *find_files(store, config.fingerprint))
    refuse_foreign(config)
    with Cluster(config.ray_address, "text", LOST, verbose=config.verbose) as cluster:
        cluster.connect()
        with at_stage(f"reading {rows_in(scores.files):,} rows"):
            rows = _read(scores, config)
        audit, cut = None, list[str]()
        for _ in range(ROUNDS):
            with at_stage(f"finding {len(config.arms)} arms"):
                draft = _draft(rows, scores, config, pa.array(cut, pa.string()))
            try:
                arms = _write(draft, scores, config)
                if config.audit or config.trainer_length is not None:
                    audit, long = audit_arms(arms, scores.store, scores.fingerprint, config)
                    if long:
                        cut += long
                        continue
                manifest = _manifest(draft, arms, audit, scores, config)
                text = json.dumps(manifest.to_json(), indent=1)
                put(f"{config.out}/manifest.json", text.encode(), config.s3_endpoint)
                return manifest
            except BaseException:
                clear(config)
                raise
    clear(config)
    raise RunError(
        f"after {ROUNDS} rounds some rows are still longer than --trainer-length "
        f"{config.trainer_length:,}: leave out long rows from the start with --max-tokens"
    )


def _read(scores: Scores, config: ArmsConfig) -> "ray.data.Dataset":
    """All scored rows as CANDIDATES, all of a prompt in one block, in Ray's object store."""
    if config.quota and not config.teachers:
        config = dataclasses.replace(config, teachers=tuple(config.quota))
    find = Candidates(config, scores.store, scores.fingerprint, scores.files)
    return read_candidates(find).materialize()


def _check_teachers(config: ArmsConfig, there: list[str]) -> None:
    """Raise UserError for a quota of a teacher that has no scores."""
    for name in sorted({*config.quota} - {*there}):
        known = did_you_mean(name, there) or f"there: {', '.join(sorted(there))}"
        raise UserError(f"--quotas {name}: the store has no such teacher; {known}")


def _draft(rows: "ray.data.Dataset", scores: Scores, config: ArmsConfig, cut: pa.Array) -> Draft:
    """The arms of the candidates among rows, none of these prompts. Raises UserError where there
    are none.
    """
    found, request = _requested(rows, scores, config, cut)
    chosen = solve_request(request, config)
    asked = (config, cut, named_rows(request.offers, chosen, config))
    of_arms = rows.map_batches(take, fn_args=asked, **WHOLE).materialize()  # type: ignore[arg-type]
    sums = sums_of_arms(summaries_of(of_arms), config)
    arms = describe_arms(request, chosen, sums, config)
    return Draft(found, request, chosen, of_arms, arms)


def _requested(
    rows: "ray.data.Dataset", scores: Scores, config: ArmsConfig, cut: pa.Array
) -> tuple[Found, Request]:
    """What is asked for of the candidates. Raises UserError where there are none."""
    of_partitions = rows.map_batches(offer, fn_args=(config, cut), **WHOLE)  # type: ignore[arg-type]
    offers, texts = read_offers(of_partitions)
    found = Found.added(texts)
    _check_teachers(config, [*found.seen])
    if not found.candidates.n:
        raise UserError(_nothing(found, config))
    measures = {}
    if "tokens" in config.match:
        measures["tokens"] = offers.numbers["n_tokens"].astype(float)
    if "flops" in config.match:
        tokens = offers.numbers["length"]
        measures["flops"] = training_flops(scores.store, scores.fingerprint, tokens)
    return found, Request.of(offers, measures, config)


def _nothing(found: Found, config: ArmsConfig) -> str:
    counts = most_frequent_first(found.dropped)
    if counts.get("no_value"):
        way_out = find_metric(config.by, config.segment).way_out
        return f"no candidate has a value for {config.criterion}: score {way_out}"
    why = "; ".join(
        f"{n:,} {reason}" + (f" ({DROPPED[reason].rstrip('.')})" if reason in DROPPED else "")
        for reason, n in counts.items()
    )
    return f"none of {found.rows:,} scored rows is a candidate: {why or 'the store has no rows'}"


def _write(draft: Draft, scores: Scores, config: ArmsConfig) -> list[Arm]:
    """Write the arms; returns them with their files."""
    clear(config)
    with at_stage(f"writing {sum(arm.rows for arm in draft.arms):,} rows"):
        return write_arms(draft.arms, draft.rows, n_objects(scores.files), config)


def _manifest(
    draft: Draft, arms: list[Arm], audit: Audit | None, scores: Scores, config: ArmsConfig
) -> ArmsManifest:
    found = draft.found
    measures: dict[str, list[float]] = {"tokens": [arm.tokens for arm in arms]}
    if "flops" in config.match:
        measures["flops"] = [arm.flops for arm in arms if arm.flops is not None]
    known = {"said_complete": found.said_complete, "guarded": found.guarded}
    return ArmsManifest(
        student=config.student,
        fingerprint=scores.fingerprint,
        by=Criterion.of(config),
        config=config,
        rows=found.rows,
        dropped=most_frequent_first(found.dropped),
        candidates=found.candidates.n,
        arms=arms,
        candidates_means=found.candidates.means,
        spread=spread_of(measures),
        common=in_common(draft.request, draft.chosen, config.arms),
        flops_formula=formula(config),
        audit=audit,
        versions=versions_of("ray", "pyarrow", "numpy", "scipy"),
        notes=notes(config, scores.store, scores.fingerprint, scores.files, **known),
    )
