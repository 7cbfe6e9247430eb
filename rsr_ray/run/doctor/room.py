"""What a run finds around it: the cluster, the store, memory and disk."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import counted
from rsr_ray.files.filesystems import protocol_of
from rsr_ray.files.objects import InputObject
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.here import resources_here
from rsr_ray.run.lacking import Lacking, find_lacking
from rsr_ray.run.resources import Resources, flops_of, room_for, take
from rsr_ray.store.packs import files_of, find_packs
from rsr_ray.store.store import Store
from rsr_ray.store.units import Done, n_rows, settle_units
from rsr_ray.student.facts import StudentFacts, n_parameters

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LARGE = 4 << 30  # weights above this are not loaded where there is no GPU
ROW_BYTES = 200  # of a row in the store, about


def check_cluster(
    findings: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    n_bytes: int,
    cluster: Cluster | None,
) -> Resources:
    """What a run over `n_bytes` would take of it; None: it needs none. Raises UserError."""
    if cluster is None:
        here = resources_here(config)
        findings.ok(
            "cluster",
            f"not needed: a run as small as this is scored here, without Ray, in {here.dtype}",
        )
        return here
    import ray

    with cluster:
        cluster.connect()
        resources = take(config, flops_of(facts.source, n_bytes))
        have = ray.cluster_resources()
        room = room_for(resources.gpus_per_replica)
    each = resources.gpus_per_replica
    on = f"with {counted(each, 'GPU')} each" if each else "on CPUs"
    said = (
        f"{have.get('CPU', 0.0):g} CPUs, {have.get('GPU', 0):g} GPUs; "
        f"{counted(resources.replicas, 'replica')} {on}, in {resources.dtype}"
    )
    if resources.replicas > room:
        findings.fail(
            "cluster",
            f"{said}: only {room} fit now; an autoscaling cluster may still add room, other "
            "clusters need fewer --replicas",
        )
    else:
        findings.ok("cluster", said)
    return resources


def check_store(
    findings: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    resources: Resources,
    files: list[InputObject],
) -> list[InputObject]:
    """Whether it can be written, and holds scores of these settings; the files, or packs of them,
    that it does not hold whole, and the parts of others that the student has to see again. Raises
    UserError.
    """
    store = Store(config.store, str(config.student_name), config.s3_endpoint)
    store.check_access("doctor")
    hash_of = config.hash_of(facts, resources.dtype, config.length_limit(facts))
    generation = store.find_generation(hash_of, config.beside)
    units = store.find_under(generation, new_generation=config.new_generation)
    objects, left = _left(store, list(units), files, config.reading.label)
    shards = [(obj.key, obj.version + config.reading.label) for obj in objects]
    marks = store.made_of().known_marks(units)
    lacking = find_lacking(store, generation, config.beside, units, shards, marks)
    adding = f"; adds {lacking.what_to_what}" if lacking.units else ""
    findings.ok(
        "store",
        f"can be read and written; has {len(units):,} work units under these settings; "
        f"{len(files_of(left)):,} of {counted(len(files), 'shard')} to score{adding}",
    )
    return [*left, *_parts_to_add_to(lacking, units, objects)]


def _left(
    store: Store, units: list[str], files: list[InputObject], label: str
) -> tuple[list[InputObject], list[InputObject]]:
    """A corpus with its small files in packs, and what of it is not wholly scored; `label` is that
    of its reading.
    """
    packs, _ = find_packs(files, store, units)
    packed = {file.uri for file in files_of(packs)}
    done, _ = settle_units(units)
    objects = [*(file for file in files if file.uri not in packed), *packs]
    left = [obj for obj in objects if not done.get((obj.key, obj.version + label), Done()).whole]
    return objects, left


def _parts_to_add_to(
    lacking: Lacking, units: Iterable[str], objects: list[InputObject]
) -> list[InputObject]:
    """Objects as large as what of them goes through the student again."""
    rows, again = Counter[str](), Counter[str]()
    for name in units:
        rows[name[:16]] += n_rows([name])
    for name in lacking.units.keys() - lacking.has_tokens:
        again[name[:16]] += n_rows([name])
    return [
        replace(obj, size=round(obj.size * again[obj.key] / rows[obj.key]))
        for obj in objects
        if obj.key in again
    ]


def check_room(
    findings: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    resources: Resources,
    n_rows: float,
) -> bool:
    """Whether the student fits into memory here.

    A disk too full for the scores of `n_rows` rows is a failure, and the student still fits.
    """
    import torch

    need = n_parameters(facts.source) * BYTES[resources.dtype]
    have, where = _memory(resources)
    said = f"weights {need / 2**30:,.2f} GiB in {resources.dtype}, {where} {have / 2**30:,.1f} GiB"
    if need > 0.9 * have:
        findings.fail(
            "memory and disk",
            f"{said}: use fewer --replicas, more --gpus-per-replica, or --quantize",
        )
        return False
    if protocol_of(config.store) == "file":
        free = _free_beside(Path(config.store))
        needed = n_rows * ROW_BYTES
        said += f"; {free / 2**30:,.1f} GiB free on the store's disk"
        if free < needed:
            findings.fail("memory and disk", f"{said}, about {needed / 2**30:,.1f} GiB are needed")
            return True
    findings.ok("memory and disk", said)
    if need > LARGE and not torch.cuda.is_available():
        findings.warn(
            "engine",
            "not checked, because this machine has no GPU to load the student on; ray job "
            "submit --entrypoint-num-gpus 1 runs it on one",
        )
        return False
    return True


def _memory(resources: Resources) -> tuple[int, str]:
    """Bytes that a replica has for the weights, and where."""
    import torch

    if torch.cuda.is_available():
        a_gpu = int(torch.cuda.get_device_properties(0).total_memory)
        return a_gpu * max(1, resources.gpus_per_replica), "GPU memory per replica"
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // max(1, resources.replicas), "memory of this machine per replica"


def _free_beside(folder: Path) -> int:
    """Bytes free on the disk that a folder, which need not be there yet, lies on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
