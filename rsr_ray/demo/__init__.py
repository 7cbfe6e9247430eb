"""rsr-ray demo: a whole run on data it makes itself, with a tiny trained student that comes with the package."""

from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from rsr_ray.config import ScoreConfig
from rsr_ray.demo.corpus import write_corpus
from rsr_ray.errors import UserError


def demo(out: str) -> int:
    """Make the corpus under `out`, score it, rank its teachers. Two rows are broken on purpose. Returns the exit code."""
    from rsr_ray.cli import score

    console = Console()
    folder = Path(out)
    try:
        counts = write_corpus(folder / "corpus")
    except OSError as e:
        raise UserError(f"--out {out}: cannot be written: {e}") from e
    console.print(
        f"Made {sum(counts.values())} trajectories of {len(counts)} teachers in {folder / 'corpus'}, two of them broken on purpose. "
        "Starting Ray and scoring them under a student of 0.5M parameters; this takes about a minute.",
        highlight=False,
    )
    with as_file(files("rsr_ray.demo") / "student") as student:
        return score(
            ScoreConfig(
                corpus=(str(folder / "corpus"),),
                student=str(student),
                student_name="demo-student",
                store=str(folder / "store"),
                dtype="float32",
                ray_address="local",
                unit_rows=32,
            )
        )
