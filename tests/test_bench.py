import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rsr_ray.bench import bench, student
from rsr_ray.cli import main


def test_the_bench_measures_both_ways_and_keeps_the_result(tmp_path, monkeypatch, capsys):
    small = dataclasses.replace(
        student.SHAPES["cpu"],
        hidden=32,
        layers=1,
        intermediate=32,
        vocabulary=2000,
        rows=40,
        median=60,
        p95=200,
        longest=256,
    )
    monkeypatch.setitem(student.SHAPES, "cpu", small)
    assert main(["bench", "--out", str(tmp_path), "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "share of the matmul ceiling" in shown
    result = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert result["largest_relative_difference_of_surprisal"] < 1e-5
    assert result["rank_sums_that_differ"] <= 1
    assert result["engine"]["padding_share"] < result["naive"]["padding_share"]
    assert len(result["profile"]) == 5


@pytest.mark.parametrize(
    "key",
    ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"],
)
@pytest.mark.parametrize("spoil", ["left out", "renamed", "of another shape", "cut"])
def test_a_student_that_is_not_whole_is_refused(monkeypatch, capsys, tmp_path, key, spoil):
    """The bench makes its own student: here something happens to it on the disk."""
    make = bench.make_student

    def spoilt(shape, folder):
        n = make(shape, folder)
        path = Path(folder) / "model.safetensors"
        weights = load_file(path)
        values = weights.pop(key)
        more = {
            "left out": {},
            "renamed": {f"x.{key}": values},
            "of another shape": {key: values[1:]},
            "cut": {key: values},
        }[spoil]
        save_file(
            weights | {name: value.clone() for name, value in more.items()},
            path,
            metadata={"format": "pt"},
        )
        if spoil == "cut":
            path.write_bytes(path.read_bytes()[:-8])
        return n

    monkeypatch.setitem(
        student.SHAPES,
        "cpu",
        dataclasses.replace(
            student.SHAPES["cpu"], hidden=32, layers=1, intermediate=32, vocabulary=200
        ),
    )
    monkeypatch.setattr(bench, "make_student", spoilt)
    assert main(["bench", "--out", str(tmp_path), "--rounds", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert key in said or spoil == "cut"
    assert not list(tmp_path.glob("*.json"))


def test_a_wrong_number_of_rounds(capsys):
    assert main(["bench", "--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err


def test_lengths_are_as_stated():
    ids, spans = student.rows_of(student.SHAPES["cpu"])
    lengths = [len(row) for row in ids]
    assert 64 <= min(lengths) <= max(lengths) <= 2048
    assert all(span.tolist() == [n // 3, n] for span, n in zip(spans, lengths, strict=True))
