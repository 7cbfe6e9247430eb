"""choose: scores -> the best trajectories of each prompt, as training data, and a manifest.

Three stages: `Candidates.read` reads the scores of each input object and marks what a filter leaves
out; `choose_prompts` gets all rows of a prompt together, as narrow columns, and keeps the best;
`files.write_chosen` reads the shards of these again and writes their rows whole. Nothing depends on
the order of shards, on partitions or on the number of CPUs.
"""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rsr_ray.choose.candidates import Candidates
from rsr_ray.choose.files import clear, refuse_foreign, write_files
from rsr_ray.choose.manifest import Manifest, make_manifest
from rsr_ray.choose.prompts import choose_prompts
from rsr_ray.choose.summary import Summary
from rsr_ray.config.choose import ChooseConfig, PoolConfig
from rsr_ray.errors import UserError
from rsr_ray.files.objects import put
from rsr_ray.guard import UNCHECKED
from rsr_ray.run.display import at_stage
from rsr_ray.store.score_files import READ_UNITS
from rsr_ray.store.store import Store
from rsr_ray.store.units import n_rows, settle_units

if TYPE_CHECKING:
    import ray.data

PARTITION_ROWS = 50_000
# Units of which local naturalness is compared with the global one: more would say the same.
NOTED_UNITS = 200
LOST = "No files of this choice were kept: rerun the same command."


def choose_trajectories(config: ChooseConfig) -> Manifest:
    """Write the best trajectories for each prompt to `config.out`, as files that trainers load,
    with manifest.json next to them; returns the manifest.

    Raises UserError for what the user can fix, RunError for a broken run.
    """
    from rsr_ray.run.cluster import Cluster
    from rsr_ray.run.datasets import share_done

    store = Store(config.store, config.student, config.s3_endpoint)
    fingerprint, names = find_units(store, config.fingerprint)
    refuse_foreign(config)
    with Cluster(config.ray_address, "text", LOST, verbose=config.verbose) as cluster:
        cluster.connect()
        with at_stage(f"choosing from {n_rows(names):,} rows", share=lambda: share_done("read")):
            chosen, found = _choose_rows(config, store, fingerprint, names)
        known = {"said_complete": found.said_complete, "guarded": found.guarded}
        said = notes(config, store, fingerprint, names, **known)
        manifest = make_manifest(config, fingerprint, found, said)
        clear(config)
        try:
            with at_stage(
                f"writing {manifest.chosen:,} chosen trajectories",
                share=lambda: share_done("write_chosen"),
            ):
                n_objects = len({name[:16] for name in names})
                files, columns = write_files(chosen, manifest.chosen, n_objects, config)
            manifest = dataclasses.replace(manifest, files=files, columns=columns)
            text = json.dumps(manifest.to_json(), indent=1)
            put(f"{config.out}/manifest.json", text.encode(), config.s3_endpoint)
        except BaseException:
            clear(config)
            raise
    return manifest


def find_units(store: Store, fingerprint: str | None) -> tuple[str, list[str]]:
    """The fingerprint to choose by and the names of its units that count. Raises UserError."""
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
    _, repeated = settle_units(units[fingerprint])
    return fingerprint, sorted({*units[fingerprint]} - {*repeated})


def notes(
    config: PoolConfig,
    store: Store,
    fingerprint: str,
    names: list[str],
    *,
    said_complete: int,
    guarded: int,
) -> list[str]:
    """What the store lacks, and whether local naturalness says another thing than the global one.

    The latter from some of the units, spread over all. `said_complete` and `guarded` count the rows
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
    some = pa.table({"name": names[:: math.ceil(len(names) / NOTED_UNITS)]})
    columns = ["n_tokens", "surprisal_sum", "n_steps", "step_surprisal_sum"]
    rows = store.read_units(some, fingerprint, columns).drop_null()
    return said + naturalness_notes({name: rows[name].to_numpy() for name in columns})


def read_candidates(find: Candidates, names: list[str]) -> "ray.data.Dataset":
    """The lazy dataset of the CANDIDATES rows of these units."""
    import ray.data

    objects = _batches(names, 1 if find.reads_corpus else READ_UNITS)
    return ray.data.from_arrow(list(objects)).map_batches(
        find.read, batch_size=None, batch_format="pyarrow"
    )


def _choose_rows(
    config: ChooseConfig, store: Store, fingerprint: str, names: list[str]
) -> tuple["ray.data.Dataset", Summary]:
    """The chosen rows as a dataset of CHOSEN in Ray's object store, and the partitions' summary."""
    one_partition = config.max_share is not None  # a cap is on the shares of all rows
    partitions = 1 if one_partition else int(np.clip(n_rows(names) // PARTITION_ROWS, 2, 200))
    chosen = (
        read_candidates(Candidates(config, store, fingerprint, names), names)
        .repartition(partitions, keys=["prompt_id"])
        .map_batches(choose_prompts, batch_size=None, batch_format="pyarrow", fn_args=(config,))
        .materialize()
    )
    # The rows come by a block at a time: another stage would start workers for a few lines of text.
    blocks = chosen.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    texts = [text for block in blocks for text in block["summary"].drop_null().to_pylist()]
    return chosen, Summary.added(texts)


def _batches(names: list[str], size: int) -> Iterator[pa.Table]:
    """Input objects as the names of their units, which stay together.

    Each table has `size` units or a little more.
    """
    of_object: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_object[name[:16]].append(name)
    held: list[list[str]] = []
    for units in of_object.values():
        held.append(units)
        if sum(map(len, held)) >= size:
            yield pa.table({"names": held})
            held = []
    if held:
        yield pa.table({"names": held})
