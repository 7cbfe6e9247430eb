"""What of a corpus folder is read, what is passed over with a word, and what is refused by name."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from rsr_ray.corpus.shards import find_corpus
from rsr_ray.errors import UserError
from rsr_ray.files.listing import HIDDEN, NO_SHARD, dataset_files, reason_to_skip

ROW = '{"id": 1, "prompt": "2+2?", "response": "4"}\n'


def shard(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ROW)
    return path


def listed(*corpus) -> tuple[list[str], str]:
    objects, told = find_corpus(tuple(map(str, corpus)), None)
    return [obj.uri for obj in objects], told


def test_links_to_folders_and_files_are_followed(tmp_path):
    away = shard(tmp_path / "away" / "teacher=b" / "x.jsonl")
    blob = shard(tmp_path / "blobs" / "0123abcd")
    here = shard(tmp_path / "corpus" / "teacher=a" / "x.jsonl")
    (tmp_path / "corpus" / "teacher=b").symlink_to(away.parent)
    (tmp_path / "corpus" / "teacher=c.jsonl").symlink_to(blob)
    want = [
        str(here),
        str(tmp_path / "corpus/teacher=b/x.jsonl"),
        str(tmp_path / "corpus/teacher=c.jsonl"),
    ]
    assert listed(tmp_path / "corpus") == (want, "")
    assert listed(f"{tmp_path}/corpus/*.jsonl") == (want[2:], "")
    assert listed(f"{tmp_path}/corpus/**/*.jsonl") == (want, "")
    assert listed(want[2]) == (want[2:], "")
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    assert len(listed(tmp_path / "link")[0]) == 3


def test_a_replaced_target_of_a_link_is_another_version(tmp_path):
    blob = shard(tmp_path / "blob")
    (tmp_path / "a.jsonl").symlink_to(blob)
    (before,) = find_corpus((str(tmp_path / "a.jsonl"),), None)[0]
    blob.write_text(ROW * 2)
    (after,) = find_corpus((str(tmp_path / "a.jsonl"),), None)[0]
    assert before.version != after.version
    assert after.size == 2 * len(ROW)


def test_loops_end_and_a_file_with_two_names_is_read_once(tmp_path):
    here = shard(tmp_path / "m" / "x.jsonl")
    (tmp_path / "m" / "loop").symlink_to(tmp_path)
    (tmp_path / "a.jsonl").symlink_to(here)  # its name comes first and is not the one that counts
    (tmp_path / "b").symlink_to(here.parent)
    for corpus in [(tmp_path,), (tmp_path, tmp_path / "b"), (f"{tmp_path}/**",)]:
        uris, told = listed(*corpus)
        assert uris == [str(here)]
        assert "another name for a file that is read, e.g." in told
    assert "1 a link to a folder that contains it, e.g." in listed(tmp_path)[1]


def test_what_is_skipped_is_told_and_customary_files_are_not(tmp_path):
    shard(tmp_path / "a.jsonl")
    for name in (
        "_SUCCESS",
        "README.md",
        ".DS_Store",
        "notes.txt",
        "more.csv",
        "_tmp/x.jsonl",
        ".hidden.jsonl",
    ):
        shard(tmp_path / name)
    uris, told = listed(tmp_path)
    assert uris == [str(tmp_path / "a.jsonl")]
    assert told == (
        f"not read: 2 hidden (its name starts with . or _), e.g. {tmp_path}/.hidden.jsonl; "
        f"2 without a known extension, e.g. {tmp_path}/more.csv"
    )
    assert listed(tmp_path / "a.jsonl")[1] == ""


def test_what_datasets_keeps_beside_arrow_files(tmp_path):
    names = [
        "dataset_dict.json",
        "train/state.json",
        "train/dataset_info.json",
        "train/data-00000-of-00001.arrow",
        "train/cache-1.arrow",
    ]
    for name in [*names, "other/state.json"]:
        shard(tmp_path / name)
    uris, told = listed(tmp_path)
    assert [uri.removeprefix(f"{tmp_path}/") for uri in uris] == [
        "other/state.json",
        "train/data-00000-of-00001.arrow",
    ]
    assert "4 a dataset's metadata or cache" in told
    assert dataset_files(["a/cache-1.arrow"]) == set()


@pytest.mark.parametrize("how", ["folder", "glob", "named"])
def test_a_dangling_link_is_named(tmp_path, how):
    shard(tmp_path / "a.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    corpus = {"folder": tmp_path, "glob": f"{tmp_path}/*.jsonl", "named": tmp_path / "gone.jsonl"}[
        how
    ]
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        listed(corpus)


@pytest.mark.parametrize("how", ["folder", "glob", "above"])
def test_a_name_that_is_not_utf8_is_named(tmp_path, how):
    folder = os.fsencode(tmp_path / "t") + (b"\xff" if how == "above" else b"")
    os.mkdir(folder)
    shard(tmp_path / "a.jsonl")
    name = folder + (b"/ok.jsonl" if how == "above" else b"/caf\xe9.jsonl")
    with open(name, "w") as file:
        file.write(ROW)
    corpus = f"{tmp_path}/t/*.jsonl" if how == "glob" else tmp_path
    with pytest.raises(UserError, match=r"(t\\xff|caf\\xe9).* is not UTF-8: rename it") as caught:
        listed(corpus)
    str(caught.value).encode()


@contextlib.contextmanager
def nobody():
    """Not as the superuser, who may read all."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "what"),
    [("t", "t cannot be listed"), ("t/x.jsonl", r"x\.jsonl cannot be read by this user")],
)
def test_what_may_not_be_read_is_named(closed, what):
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        shard(folder / "t" / "x.jsonl")
        shard(folder / "a.jsonl")
        (folder / closed).chmod(0)
        with nobody(), pytest.raises(UserError, match=what):
            listed(folder)
    finally:
        (folder / closed).chmod(0o755)
        shutil.rmtree(folder)


def test_other_kinds_of_files_are_refused(tmp_path):
    shard(tmp_path / "a.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")  # to read one would wait for ever
    with pytest.raises(UserError, match=r"pipe\.jsonl is not a regular file"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("x.jsonl", None),
        ("a/X.JSONL", None),
        (".x.jsonl", HIDDEN),
        ("_tmp/x.jsonl", HIDDEN),
        ("a/_SUCCESS", HIDDEN),
        ("a/x.csv", NO_SHARD),
    ],
)
def test_what_of_a_store_is_no_shard(path, reason):
    """Where there are no folders to walk: S3 and the hub."""
    assert reason_to_skip(path.split("/"), (".jsonl",)) == reason
