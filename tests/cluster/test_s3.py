"""The same corpus through s3:// over HTTP, from two real servers: the table may not differ from
the local one.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsr_ray.errors import UserError
from rsr_ray.files.objects import get

from .conftest import as_options, rsr_ray, score, upload


def test_the_same_table_through_s3(s3, a_corpus, local_table):
    fs, endpoint = s3
    corpus, settings = a_corpus
    upload(fs, corpus, "rsr/corpus")
    options = as_options(settings)
    done = rsr_ray("score", "--corpus", "s3://rsr/corpus", "--store", "s3://rsr/store", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    teachers = pq.read_table(
        pa.BufferReader(get("s3://rsr/store/teachers/student=s.parquet", endpoint))
    ).to_pylist(maps_as_pydicts="strict")
    assert teachers == local_table
    glob = (
        "s3://rsr/corpus/"
        + "*/" * len(next(corpus.rglob("part-*")).relative_to(corpus).parts[1:])
        + "part-*"
    )
    again = rsr_ray("score", "--corpus", glob, "--store", "s3://rsr/store", "--json", *options)
    assert '"scored": 0' in again.stdout, again.stderr[-2000:]
    shown = rsr_ray("teachers", "--store", "s3://rsr/store", "--student", "s")
    assert "lower" in shown.stdout
    assert "ranks first" in shown.stdout


def test_what_is_missing_or_forbidden_is_one_line(s3, demo_corpus):
    _, endpoint = s3
    for uri in ("s3://rsr/nothing-here", "s3://no-such-bucket/x", "s3://rsr/nothing/*.parquet"):
        with pytest.raises(
            UserError, match="no such file or folder|cannot be listed|no shards found"
        ):
            score(uri, "s3://rsr/store2", s3_endpoint=endpoint)
    done = rsr_ray(
        "score",
        "--corpus",
        str(demo_corpus),
        "--student",
        "rsr_ray/demo/student",
        "--store",
        "s3://no-such-bucket/store",
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
