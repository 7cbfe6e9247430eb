import dataclasses
import json

from rsr_ray import bench
from rsr_ray.cli import main


def test_the_bench_measures_both_ways_and_keeps_the_result(tmp_path, monkeypatch, capsys):
    small = dataclasses.replace(bench.SHAPES["cpu"], hidden=32, layers=1, intermediate=32, vocabulary=2000, rows=80, median=60, p95=200, longest=256)
    monkeypatch.setitem(bench.SHAPES, "cpu", small)
    assert main(["bench", "--out", str(tmp_path), "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "share of the matmul ceiling" in shown
    result = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert result["largest_relative_difference_of_surprisal"] < 1e-5
    assert result["rank_sums_that_differ"] <= 1
    assert result["engine"]["padding_share"] < result["naive"]["padding_share"]
    assert len(result["profile"]) == 5


def test_a_wrong_number_of_rounds(capsys):
    assert main(["bench", "--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err


def test_lengths_are_as_stated():
    ids, spans = bench.rows_of(bench.SHAPES["cpu"])
    lengths = [len(row) for row in ids]
    assert 64 <= min(lengths) <= max(lengths) <= 2048
    assert all(span.tolist() == [n // 3, n] for span, n in zip(spans, lengths, strict=True))
