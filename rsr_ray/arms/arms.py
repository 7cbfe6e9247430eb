"""arms: scores -> several training sets that differ in what they are chosen by, and a manifest.

`Candidates.read` reads the scores of each input object and marks what a filter leaves out, as for
a choice; all candidates come together in this process, as narrow columns; `solve_request` finds the
arms; each is written as a choice is. Nothing depends on the order of shards or the number of CPUs.
"""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    rows_in,
)
from rsr_ray.choose.columns import candidates_of
from rsr_ray.choose.files import clear, refuse_foreign
from rsr_ray.choose.manifest import Criterion, most_frequent_first, versions_of
from rsr_ray.choose.prompts import drop, mark_copies
from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.choose.rule import evaluate
from rsr_ray.choose.summary import SetSums
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.errors import RunError, UserError, did_you_mean
from rsr_ray.files.objects import put
from rsr_ray.metrics import REGISTRY, find_metric
from rsr_ray.run.display import at_stage
from rsr_ray.schema import DROPPED
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store

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

    rows: pa.Table  # CANDIDATES, those dropped included
    request: Request
    chosen: np.ndarray  # bool [A, N], of the request's candidates
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
        audit = None
        for _ in range(ROUNDS):
            with at_stage(f"finding {len(config.arms)} arms"):
                draft = _draft(rows, scores, config)
            try:
                arms = _write(draft, scores, config)
                if config.audit or config.trainer_length is not None:
                    audit, cut = audit_arms(arms, scores.store, scores.fingerprint, config)
                    if cut:
                        rows = _without_prompts(rows, cut)
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


def _read(scores: Scores, config: ArmsConfig) -> pa.Table:
    """All scored rows as CANDIDATES, copies and what has no value of the metric dropped."""
    if config.quota and not config.teachers:
        config = dataclasses.replace(config, teachers=tuple(config.quota))
    find = Candidates(config, scores.store, scores.fingerprint, scores.files)
    blocks = read_candidates(find).iter_batches(batch_size=None, batch_format="pyarrow")
    none = candidates_of(config.metric).empty_table()
    rows = mark_copies(pa.concat_tables([none, *blocks]).combine_chunks())
    if config.trainer_length is not None:
        # at least so long: what a row has between its answers is not counted
        long = pc.greater(_length(rows), config.trainer_length)
        is_candidate = pc.is_null(rows["dropped"])
        cut = pc.unique(rows.filter(pc.and_(long, is_candidate))["prompt_id"])
        rows = _without_prompts(rows, cut.to_pylist())
    _check_teachers(config, rows["teacher"].unique().to_pylist())
    values = evaluate(rows, config)
    candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
    return drop(rows, candidate & ~np.isfinite(values), "no_value")


def _check_teachers(config: ArmsConfig, there: list[str]) -> None:
    """Raise UserError for a quota of a teacher that has no scores."""
    for name in sorted({*config.quota} - {*there}):
        known = did_you_mean(name, there) or f"there: {', '.join(sorted(there))}"
        raise UserError(f"--quotas {name}: the store has no such teacher; {known}")


def _length(rows: pa.Table) -> pa.ChunkedArray:
    return pc.add(rows["n_prompt_tokens"], rows["n_tokens"])


def _without_prompts(rows: pa.Table, prompts: list[str]) -> pa.Table:
    """The rows, the candidates of these prompts dropped."""
    some = pc.is_in(rows["prompt_id"], pa.array(prompts, pa.string()))
    which = pc.and_(some, pc.is_null(rows["dropped"]))
    return drop(rows, which.to_numpy(zero_copy_only=False), "trainer_length")


def _draft(rows: pa.Table, scores: Scores, config: ArmsConfig) -> Draft:
    """The arms of the candidates among rows. Raises UserError where there are none."""
    better = REGISTRY[config.by].better
    values = evaluate(rows, config)
    ranked = RankedCandidates.of(rows, values, better if better != "-" else "lower")
    if not len(ranked.value):
        raise UserError(_nothing(rows, config))
    measures = {}
    if "tokens" in config.match:
        measures["tokens"] = ranked.rows["n_tokens"].to_numpy().astype(float)
    if "flops" in config.match:
        tokens = _length(ranked.rows).to_numpy()
        measures["flops"] = training_flops(scores.store, scores.fingerprint, tokens)
    request = Request.of(ranked, measures, config)
    chosen = solve_request(request, config)
    return Draft(
        rows, request, chosen, describe_arms(request, chosen, measures.get("flops"), config)
    )


def _nothing(rows: pa.Table, config: ArmsConfig) -> str:
    counts = _dropped(rows)
    if counts.get("no_value"):
        way_out = find_metric(config.by, config.segment).way_out
        return f"no candidate has a value for {config.criterion}: score {way_out}"
    why = "; ".join(
        f"{n:,} {reason}" + (f" ({DROPPED[reason].rstrip('.')})" if reason in DROPPED else "")
        for reason, n in counts.items()
    )
    return f"none of {rows.num_rows:,} scored rows is a candidate: {why or 'the store has no rows'}"


def _dropped(rows: pa.Table) -> dict[str, int]:
    """Reason -> rows, the most frequent first."""
    counts = rows["dropped"].drop_null().value_counts().to_pylist()
    return most_frequent_first({entry["values"]: entry["counts"] for entry in counts})


def _write(draft: Draft, scores: Scores, config: ArmsConfig) -> list[Arm]:
    """Write the arms; returns them with their files."""
    clear(config)
    ranked = draft.request.ranked
    chosen = [ranked.chosen_rows(rows, config.criterion) for rows in draft.chosen]
    with at_stage(f"writing {sum(arm.rows for arm in draft.arms):,} rows"):
        return write_arms(draft.arms, chosen, n_objects(scores.files), config)


def _manifest(
    draft: Draft, arms: list[Arm], audit: Audit | None, scores: Scores, config: ArmsConfig
) -> ArmsManifest:
    rows, ranked = draft.rows, draft.request.ranked
    every = SetSums.of(ranked.rows, ranked.prompt, np.ones(len(ranked.value), bool), config.metric)
    measures: dict[str, list[float]] = {"tokens": [arm.tokens for arm in arms]}
    if "flops" in config.match:
        measures["flops"] = [arm.flops for arm in arms if arm.flops is not None]
    known = {
        "said_complete": rows.num_rows - rows["complete"].null_count,
        "guarded": pc.sum(rows["is_guarded"]).as_py() or 0,
    }
    return ArmsManifest(
        student=config.student,
        fingerprint=scores.fingerprint,
        by=Criterion.of(config),
        config=config,
        rows=rows.num_rows,
        dropped=_dropped(rows),
        candidates=len(ranked.value),
        arms=arms,
        candidates_means=every.means,
        spread=spread_of(measures),
        common=in_common(draft.request, draft.chosen, config.arms),
        flops_formula=formula(config),
        audit=audit,
        versions=versions_of("ray", "pyarrow", "numpy", "scipy"),
        notes=notes(config, scores.store, scores.fingerprint, scores.files, **known),
    )
