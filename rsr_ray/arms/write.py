"""write: the rows of all arms -> a folder of files for each, every shard read once."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.arms.manifest import Arm
from rsr_ray.arms.partitions import ARM
from rsr_ray.choose.columns import CHOSEN
from rsr_ray.choose.files import WHOLE, settle_files, without_summary, write_file
from rsr_ray.choose.whole_rows import whole_rows
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.files.objects import InputObject

if TYPE_CHECKING:
    import ray.data

MOST_TASKS = 200


def write_arms(
    arms: list[Arm], rows: "ray.data.Dataset", n_objects: int, config: ArmsConfig
) -> list[Arm]:
    """The arms with the files that were written of their rows, OF_ARMS of at most n_objects shards.

    Raises UserError for what the user can fix, as a choice does.
    """
    n_rows = sum(arm.rows for arm in arms)
    tasks = int(np.clip(n_rows // 64, 1, min(n_objects, MOST_TASKS)))
    by_source = rows.map_batches(without_summary, **WHOLE).repartition(tasks, keys=["source"])
    written = by_source.map_batches(write_rows, fn_args=(config,), **WHOLE).take_all()
    out = []
    for arm in arms:
        own = [file for file in written if file["arm"] == arm.name]
        folder = dataclasses.replace(config, out=arm.folder)
        files, columns = settle_files(own, arm.rows, folder)
        out.append(dataclasses.replace(arm, files=files, columns=columns))
    return out


def write_rows(rows: pa.Table, config: ArmsConfig) -> Iterator[pa.Table]:
    """Ray Data UDF over CHOSEN rows with their arm, all of a source in one batch.

    Writes a file for each source and arm, and gives a WRITTEN row with its arm for each.
    """
    for source in sorted(set(rows["source"].to_pylist())):
        some = rows.filter(pc.equal(rows["source"], source))
        obj = InputObject(uri=source, version=some["version"][0].as_py(), size=0)
        # a row may be in several arms
        numbers, first = np.unique(some["source_row"].to_numpy(), return_index=True)
        whole, columns = whole_rows(obj, some.take(first).select(CHOSEN.names), config)
        for arm in config.arms:
            mine = some.filter(pc.equal(some["arm"], arm))["source_row"].to_numpy()
            if len(mine):
                table = whole.take(np.searchsorted(numbers, np.sort(mine)))
                own = dataclasses.replace(config, out=f"{config.out}/{arm}")
                file = write_file(f"train-{obj.key}.{config.format}", table, columns, own)
                yield file.append_column(ARM, pa.array([arm]))
