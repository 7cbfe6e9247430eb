"""20,000 files of one short row beside one file of as many: python -m
tests.cluster.measure_small_files [20000]

Prints how much longer a file takes, and how many objects are in the store. The two runs take turns,
each twice.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from rsr_ray.run.cluster import Cluster

from .conftest import score

N = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000


def row(n: int) -> str:
    return (
        json.dumps({"id": f"r{n}", "prompt": f"{n} and 2?", "response": f"It is {n + 2}."}) + "\n"
    )


with tempfile.TemporaryDirectory() as folder, Cluster(None):
    many, one = Path(folder, "many", "T"), Path(folder, "one", "T")
    for place in (many, one):
        place.mkdir(parents=True)
    for n in range(N):
        (many / f"{n:06}.jsonl").write_text(row(n))
    (one / "all.jsonl").write_text("".join(map(row, range(N))))
    seconds: dict[str, list[float]] = {"one": [], "many": []}
    for turn in range(2):
        for name, corpus in (("one", one), ("many", many)):
            begun = time.monotonic()
            run = score(corpus, f"{folder}/store-{name}-{turn}", replicas=1)
            seconds[name].append(time.monotonic() - begun)
            assert run.n_scored == N
    begun = time.monotonic()
    again = score(many, f"{folder}/store-many-0", replicas=1)
    assert (again.n_scored, again.n_already) == (0, N)
    objects = sum(path.is_file() for path in Path(folder, "store-many-0").rglob("*"))
    each = (min(seconds["many"]) - min(seconds["one"])) / N * 1000
    print(
        f"{N:,} rows: one file {seconds['one']} s, {N:,} files {seconds['many']} s: "
        f"{each:.2f} ms a file more; {objects:,} objects in the store"
    )
    print(f"again, with nothing new: {time.monotonic() - begun:.1f} s")
