"""choose: scores -> the best trajectories of each prompt, as training data, and a manifest.

Three stages: `Candidates.read` reads the scores and marks what a filter leaves out;
`choose_prompts` gets all rows of a prompt together, as narrow columns, and keeps the best;
`files.write_chosen` reads the shards of these again and writes their rows whole. A cap on shares
looks at all candidates in between, at a few numbers of each. Nothing depends on the order of
shards, on partitions or on the number of CPUs.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rsr_ray.choose.candidates import Candidates
from rsr_ray.choose.cap import cap_shares
from rsr_ray.choose.files import WHOLE, clear, refuse_foreign, write_files
from rsr_ray.choose.manifest import Manifest, make_manifest
from rsr_ray.choose.offers import Offers, offers_of
from rsr_ray.choose.prompts import choose_prompts
from rsr_ray.choose.summary import Summary
from rsr_ray.config.choose import ChooseConfig, PoolConfig
from rsr_ray.errors import UserError
from rsr_ray.files.objects import put
from rsr_ray.guard import UNCHECKED
from rsr_ray.run.display import at_stage
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store

if TYPE_CHECKING:
    import ray.data

PARTITION_ROWS, MOST_PARTITIONS = 50_000, 200
READ_ROWS = 16_384  # of a task that reads scores, at least
# Of which local naturalness is compared with the global one: more would say the same.
NOTED_FILES, NOTED_ROWS = 200, 100_000
LOST = "No files of this choice were kept: rerun the same command."


def choose_trajectories(config: ChooseConfig) -> Manifest:
    """Write the best trajectories for each prompt to `config.out`, as files that trainers load,
    with manifest.json next to them; returns the manifest.

    Raises UserError for what the user can fix, RunError for a broken run.
    """
    from rsr_ray.run.cluster import Cluster
    from rsr_ray.run.datasets import share_done

    store = Store(config.store, config.student, config.s3_endpoint)
    fingerprint, files = find_files(store, config.fingerprint)
    refuse_foreign(config)
    with Cluster(config.ray_address, "text", LOST, verbose=config.verbose) as cluster:
        cluster.connect()
        with at_stage(f"choosing from {rows_in(files):,} rows", share=lambda: share_done("read")):
            chosen, found = _choose_rows(Candidates(config, store, fingerprint, files), config)
        known = {"said_complete": found.said_complete, "guarded": found.guarded}
        said = notes(config, store, fingerprint, files, **known)
        manifest = make_manifest(config, fingerprint, found, said)
        clear(config)
        try:
            with at_stage(
                f"writing {manifest.chosen:,} chosen trajectories",
                share=lambda: share_done("write_chosen"),
            ):
                written, columns = write_files(chosen, manifest.chosen, n_objects(files), config)
            manifest = dataclasses.replace(manifest, files=written, columns=columns)
            text = json.dumps(manifest.to_json(), indent=1)
            put(f"{config.out}/manifest.json", text.encode(), config.s3_endpoint)
        except BaseException:
            clear(config)
            raise
    return manifest


def find_files(store: Store, fingerprint: str | None) -> tuple[str, list[ScoreFile]]:
    """The fingerprint to choose by and the files of its rows that count. Raises UserError."""
    units = store.units()
    student = store.student_name
    if not units:
        raise UserError(f"store {store.uri}: no scores of student {student}; run rsr-ray score")
    if fingerprint is None and len(units) > 1:
        raise UserError(
            f"store {store.uri} has scores of student {student} under several settings or "
            f"weights, which cannot be compared: select one with --fingerprint "
            f"{' or '.join(sorted(units))}"
        )
    fingerprint = fingerprint or next(iter(units))
    if fingerprint not in units:
        raise UserError(
            f"--fingerprint {fingerprint}: the store has {', '.join(sorted(units))} for student "
            f"{student}"
        )
    return fingerprint, store.score_files(fingerprint)


def rows_in(files: Sequence[ScoreFile]) -> int:
    """At most so many, rejects included."""
    return sum(file.n_rows for file in files)


def n_objects(files: Sequence[ScoreFile]) -> int:
    """Shards, or packs of them, that files have rows of."""
    return len({name[:16] for file in files for name in file.units})


def notes(
    config: PoolConfig,
    store: Store,
    fingerprint: str,
    files: Sequence[ScoreFile],
    *,
    said_complete: int,
    guarded: int,
) -> list[str]:
    """What the store lacks, and whether local naturalness says another thing than the global one.

    The latter from some of the files, spread over all. `said_complete` and `guarded` count the rows
    of which it is known whether they are complete, and whether they are degenerate.
    """
    from rsr_ray.decide.naturalness import naturalness_notes

    said = store.notes(fingerprint)
    if not guarded and not config.keep_degenerate:
        said.append(UNCHECKED)
    if not said_complete:
        said.append(
            "the corpus does not say which answers are complete, so no cut-off answers were "
            "left out; if a column says so, name it with --complete-column"
        )
    if config.by != "local_naturalness":
        return said
    columns = ["n_tokens", "surprisal_sum", "n_steps", "step_surprisal_sum"]
    tables: list[pa.Table] = []
    for file in files[:: math.ceil(len(files) / NOTED_FILES)]:
        if sum(map(len, tables)) < NOTED_ROWS:
            tables.append(store.read_score_file(fingerprint, file, columns))
    rows = pa.concat_tables(tables).drop_null()
    return said + naturalness_notes({name: rows[name].to_numpy() for name in columns})


def read_candidates(find: Candidates) -> "ray.data.Dataset":
    """The lazy dataset of the CANDIDATES rows of its files, all of a prompt in one partition."""
    import ray.data

    rows = ray.data.from_arrow(list(_batches(find.files))).map_batches(find.read, **WHOLE)
    if find.reads_corpus:
        partitions = min(n_objects(find.files), MOST_PARTITIONS)
        rows = rows.repartition(partitions, keys=["source"]).map_batches(find.judge, **WHOLE)
    partitions = int(np.clip(rows_in(find.files) // PARTITION_ROWS, 2, MOST_PARTITIONS))
    return rows.repartition(partitions, keys=["prompt_id"])


def _choose_rows(find: Candidates, config: ChooseConfig) -> tuple["ray.data.Dataset", Summary]:
    """The chosen rows as a dataset of CHOSEN in Ray's object store, and the partitions' summary."""
    candidates = read_candidates(find)
    capped = None
    if config.max_share is not None:
        candidates = candidates.materialize()  # they are looked at twice
        offers, _ = read_offers(candidates.map_batches(offers_of, fn_args=(config,), **WHOLE))
        capped = cap_shares(offers, config.k, config.max_share)
    asked = (config, capped and capped.exchanged)
    chosen = candidates.map_batches(choose_prompts, fn_args=asked, **WHOLE).materialize()
    found = Summary.added(summaries_of(chosen))
    return chosen, dataclasses.replace(found, capped=capped.moves) if capped else found


def read_offers(partitions: "ray.data.Dataset") -> tuple[Offers, list[str]]:
    """The candidates that partitions tell of, and their summaries."""
    texts = list[str]()

    def read() -> Iterator[pa.Table]:
        for block in _blocks(partitions):
            texts.extend(block["summary"].drop_null().to_pylist())
            yield block

    return Offers.of(read()), texts


def summaries_of(partitions: "ray.data.Dataset") -> Iterator[str]:
    """What partitions have in `summary`."""
    for block in _blocks(partitions):
        yield from block["summary"].drop_null().to_pylist()


def _blocks(rows: "ray.data.Dataset") -> Iterable[Any]:
    # One at a time: another stage would start workers for a few lines of text.
    return rows.iter_batches(**WHOLE, prefetch_batches=0)


def _batches(files: Sequence[ScoreFile]) -> Iterator[pa.Table]:
    """Places of files, of READ_ROWS rows or a little more together; of more where there are very
    many: a task takes time of its own.
    """
    held, n = list[int](), 0
    together = max(READ_ROWS, rows_in(files) // MOST_PARTITIONS)
    for place, file in enumerate(files):
        held.append(place)
        n += file.n_rows
        if n >= together:
            yield pa.table({"place": held})
            held, n = [], 0
    if held:
        yield pa.table({"place": held})
