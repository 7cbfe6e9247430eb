"""Corpus URIs -> shards, without what a store keeps."""

import os

from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute, protocol_of
from rsr_ray.files.listing import TWICE, Skipped, tell_skipped
from rsr_ray.files.objects import InputObject, find_objects
from rsr_ray.store.records import warn_once
from rsr_ray.store.units import store_of

PARQUET = (".parquet",)
ARROW = (".arrow",)
JSON_LINES = tuple(
    f"{kind}{c}" for kind in (".jsonl", ".ndjson") for c in ("", ".gz", ".zst", ".bz2")
)
JSON = tuple(f".json{c}" for c in ("", ".gz", ".zst", ".bz2"))
SHARDS = PARQUET + ARROW + JSON_LINES + JSON


def list_corpus(
    corpus: tuple[str, ...], endpoint: str | None, store: str | None = None
) -> list[InputObject]:
    """Every shard of every corpus URI, once, sorted by URI, as `find_corpus` finds them."""
    return find_corpus(corpus, endpoint, store)[0]


def find_corpus(
    corpus: tuple[str, ...], endpoint: str | None, store: str | None = None
) -> tuple[list[InputObject], str]:
    """Every shard of every corpus URI, once, sorted by URI, and a line on what is not read, or "".

    What a store keeps is no corpus: files of `store`, or of any other, that lie inside a corpus
    folder are left out, which is said. Raises UserError for a URI that is missing or empty, or of
    which a part cannot be read.
    """
    found: dict[str, InputObject] = {}
    skipped: dict[str, Skipped] = {}
    for uri in corpus:
        objects, passed_over = find_objects(uri, endpoint, SHARDS)
        skipped |= {one.path: one for one in passed_over}
        for obj in without_stores(uri, objects, store):
            real = (
                os.path.realpath(obj.uri)
                if len(corpus) > 1 and protocol_of(obj.uri) == "file"
                else obj.uri
            )
            if found.setdefault(real, obj).uri != obj.uri:
                skipped[obj.uri] = Skipped(obj.uri, TWICE)
    read = {obj.uri: obj for obj in found.values()}
    return [read[uri] for uri in sorted(read)], tell_skipped(
        one for path, one in skipped.items() if path not in read
    )


def without_stores(corpus: str, objects: list[InputObject], store: str | None) -> list[InputObject]:
    """The objects of a corpus URI that lie in no store; a corpus named below a store is meant.

    Raises UserError where none is left.
    """
    roots = {absolute(store)} if store else set()
    roots |= {root for obj in objects if (root := store_of(obj.uri))}
    inside = {root for root in roots if not absolute(corpus).startswith(f"{root}/")}
    left_out = {
        obj.uri: root
        for obj in objects
        if (
            root := store_of(obj.uri)
            or next((r for r in inside if obj.uri.startswith(f"{r}/")), None)
        )
    }
    kept = [obj for obj in objects if obj.uri not in left_out]
    if left_out:
        where = ", ".join(sorted({*left_out.values()}))
        line = (
            f"corpus {corpus}: {len(objects) - len(kept):,} of its files belong to the store "
            f"{where}"
        )
        if not kept:
            raise UserError(
                f"{line}, and there are no others: pass the folder with the trajectories"
            )
        warn_once(f"{line} and are skipped; put the store outside the corpus to keep them apart")
    return kept
