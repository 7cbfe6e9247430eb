"""write: the rows of all arms -> a folder of files for each, every shard read once."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.arms.manifest import Arm
from rsr_ray.choose.columns import CHOSEN
from rsr_ray.choose.files import WHOLE, settle_files, write_file
from rsr_ray.choose.whole_rows import whole_rows
from rsr_ray.config.arms import ArmsConfig
from rsr_ray.files.objects import InputObject

ARM = pa.field("arm", pa.string())
MOST_TASKS = 200


def write_arms(
    arms: list[Arm], chosen: list[pa.Table], n_objects: int, config: ArmsConfig
) -> list[Arm]:
    """The arms with the files that were written of their CHOSEN rows, of at most n_objects shards.

    Raises UserError for what the user can fix, as a choice does.
    """
    import ray.data

    rows = pa.concat_tables(
        table.append_column(ARM, pa.repeat(arm.name, table.num_rows))
        for arm, table in zip(arms, chosen, strict=True)
    )
    tasks = int(np.clip(rows.num_rows // 64, 1, min(n_objects, MOST_TASKS)))
    by_source = ray.data.from_arrow(rows).repartition(tasks, keys=["source"])
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
