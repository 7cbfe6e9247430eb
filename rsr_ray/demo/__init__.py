"""rsr-ray demo: a whole run on data it makes itself, with a tiny trained student that comes with
the package.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from rsr_ray.config.score import ScoreConfig
from rsr_ray.demo.corpus import write_corpus
from rsr_ray.errors import UserError


@contextmanager
def prepare(out: str) -> Iterator[ScoreConfig]:
    """Make the corpus under `out`, two of its rows broken on purpose, and say how to score it.

    Raises UserError.
    """
    folder = Path(out)
    try:
        counts = write_corpus(folder / "corpus")
    except OSError as e:
        raise UserError(f"--out {out}: cannot be written: {e}") from e
    print(
        f"Made {sum(counts.values())} trajectories of {len(counts)} teachers in "
        f"{folder / 'corpus'}; two of the trajectories are broken on purpose.\nScoring them "
        "under a student of 0.4M parameters.",
        flush=True,
    )
    with as_file(files("rsr_ray.demo") / "student") as student:
        yield ScoreConfig(
            corpus=(str(folder / "corpus"),),
            student=str(student),
            student_name="demo-student",
            store=str(folder / "store"),
            dtype="float32",
            ray_address="local",
            unit_rows=32,
            token_scores=True,  # the report's trajectories can be opened
        )
