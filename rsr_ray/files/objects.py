"""Files and objects: found, listed, written whole, read and deleted.

Where S3 refuses any of it, a DeniedError names the right that is missing.
"""

import contextlib
import datetime
import errno
import glob
import hashlib
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute, open_filesystem, open_fsspec, protocol_of
from rsr_ray.files.listing import (
    DATASET,
    Skipped,
    dataset_files,
    matches,
    reason_to_skip,
    stat_file,
    tell_skipped,
    walk,
)
from rsr_ray.files.rights import LIST, DeniedError, is_listed, rights

if TYPE_CHECKING:
    import fsspec
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class InputObject:
    """One file or object of a corpus.

    `version` changes when its content is replaced: the ETag, or size and time.
    """

    uri: str
    version: str
    size: int

    @property
    def key(self) -> str:
        """Short hash of the URI: with `version` the identity that scores are stored under."""
        return hashlib.sha256(self.uri.encode()).hexdigest()[:16]


def _version(info: dict) -> str:
    lfs = info.get("lfs") or {}  # of the Hugging Face hub: the hash of the content
    tag = info.get("ETag") or info.get("etag") or lfs.get("sha256") or info.get("blob_id")
    tag = tag or f"{info['size']}-{info.get('mtime') or info.get('LastModified') or ''}"
    return hashlib.sha256(str(tag).encode()).hexdigest()[:12]


def list_objects(uri: str, endpoint: str | None, endings: tuple[str, ...]) -> list[InputObject]:
    """The objects that `find_objects` finds."""
    return find_objects(uri, endpoint, endings)[0]


def find_objects(
    uri: str, endpoint: str | None, endings: tuple[str, ...]
) -> tuple[list[InputObject], list[Skipped]]:
    """Every object under a folder, matching a glob, or the one named, sorted, and what is no shard.

    In folders and globs only names with one of `endings` count, and hidden ones (a part that starts
    with . or _) do not. Raises UserError where nothing is there or something cannot be read, naming
    it.
    """
    try:
        with rights(uri, endpoint):
            find = _find_local if protocol_of(uri) == "file" else _find_remote
            found, skipped = find(uri, endpoint, endings)
    except (OSError, ValueError, ImportError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"corpus {uri}: cannot be listed: {e}") from e
    extra = dataset_files([obj.uri for obj in found])
    skipped += [Skipped(path, DATASET) for path in sorted(extra)]
    objects = [obj for obj in found if obj.uri not in extra]
    if not objects:
        told = tell_skipped(skipped)
        raise UserError(
            f"corpus {uri}: no shards found; shards end with {', '.join(endings)}"
            + (f"; {told}" if told else "")
        )
    return objects, skipped


def _find_local(
    uri: str, endpoint: str | None, endings: tuple[str, ...]
) -> tuple[list[InputObject], list[Skipped]]:
    path = absolute(uri)
    if os.path.isdir(path):
        files, skipped = walk(path, endings)
    elif os.path.lexists(path):
        files, skipped = [stat_file(path)], []
    elif glob.has_magic(path):
        files, skipped = matches(path, endings)
    else:
        raise UserError(f"corpus {uri}: no such file or folder")
    return [
        InputObject(uri=f.path, version=_version({"size": f.size, "mtime": f.mtime}), size=f.size)
        for f in files
    ], skipped


def _find_remote(
    uri: str, endpoint: str | None, endings: tuple[str, ...]
) -> tuple[list[InputObject], list[Skipped]]:
    protocol = protocol_of(uri)
    fs = open_fsspec(protocol, endpoint)
    fs.invalidate_cache()
    path = uri.split("://", 1)[1].rstrip("/")
    if _is_there(fs, uri, endpoint):
        found = fs.find(path, detail=True)
        root, named = path, not fs.isdir(path)
    elif glob.has_magic(path):
        from fsspec.utils import glob_translate

        root = path[: path.index(next(c for c in path if c in "*?["))].rsplit("/", 1)[0]
        pattern = re.compile(glob_translate(path))
        found = {p: i for p, i in fs.find(root, detail=True).items() if pattern.match(p)}
        named = False
    else:
        hint = "; if the dataset is private or gated, set HF_TOKEN" if protocol == "hf" else ""
        raise UserError(f"corpus {uri}: no such file or folder{hint}")
    objects, skipped = [], []
    for name, info in sorted(found.items()):
        address = f"{protocol}://{name}"
        reason = (
            None
            if named
            else reason_to_skip(name.removeprefix(root).strip("/").split("/"), endings)
        )
        if reason:
            skipped.append(Skipped(address, reason))
        else:
            objects.append(InputObject(uri=address, version=_version(info), size=int(info["size"])))
    return objects, skipped


def _is_there(fs: "fsspec.AbstractFileSystem", uri: str, endpoint: str | None) -> bool:
    try:
        return bool(fs.exists(uri.split("://", 1)[1].rstrip("/")))
    except PermissionError:
        if protocol_of(uri) != "s3":
            raise
        return is_listed(uri.rstrip("/"), endpoint)


def version_of(uri: str, endpoint: str | None) -> str | None:
    """The version of an object as it is now, as `list_objects` says it; None where it is gone."""
    try:
        if protocol_of(uri) == "file":
            facts = os.stat(absolute(uri))  # of what a link leads to
            return _version({"size": facts.st_size, "mtime": facts.st_mtime})
        fs = open_fsspec(protocol_of(uri), endpoint)
        fs.invalidate_cache()
        with rights(uri, endpoint):
            return _version(fs.info(uri))
    except FileNotFoundError:
        return None


def list_files(uri: str, endpoint: str | None) -> dict[str, datetime.datetime | None]:
    """Every file under a folder by its path in it, and when it was written; {} without it."""
    return {name: info.mtime for name, info in list_infos(uri, endpoint).items()}


def list_versions(uri: str, endpoint: str | None) -> dict[str, str]:
    """Every file under a folder by its path in it, with its size and time.

    That text changes where the file's content was replaced.
    """
    return {
        name: f"{info.size}:{info.mtime_ns}" for name, info in list_infos(uri, endpoint).items()
    }


def list_infos(uri: str, endpoint: str | None) -> dict[str, pafs.FileInfo]:
    """Every file under a folder by its path in it, with its size and time; {} without the folder.

    One request a thousand files, sixteen folders at a time.
    """
    fs, root = open_filesystem(uri, endpoint)
    found: dict[str, pafs.FileInfo] = {}
    folders = [root]
    with ThreadPoolExecutor(16) as pool, rights(uri, endpoint):
        while folders:
            listings = pool.map(
                lambda folder: fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)),
                folders,
            )
            folders = []
            for info in itertools.chain.from_iterable(listings):
                if info.type == pafs.FileType.Directory:
                    folders.append(info.path)
                elif info.type == pafs.FileType.File:
                    found[info.path[len(root) :].lstrip("/")] = info
    return found


def list_folders(uri: str, endpoint: str | None) -> list[str]:
    """Names of the folders in a folder, sorted; [] without it. One request a thousand."""
    fs, root = open_filesystem(uri, endpoint)
    found = fs.get_file_info(pafs.FileSelector(root, allow_not_found=True))
    return sorted(i.base_name for i in found if i.type == pafs.FileType.Directory)


def put(uri: str, data: bytes | memoryview, endpoint: str | None) -> None:
    """Write a whole file or object: it appears complete under its name, or not at all."""
    fs, path = open_filesystem(uri, endpoint)
    if not isinstance(fs, pafs.LocalFileSystem):
        # The data is at hand as a whole, so the stream is never closed over a part of it.
        with rights(uri, endpoint), fs.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    _write_aside(path, data, os.replace)


def _write_aside(path: str, data: bytes | memoryview, bring: Callable[[str, str], None]) -> None:
    """Write a local file under another name, and `bring` it under its own."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        bring(aside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)


def _bring_first(aside: str, path: str) -> None:
    """Bring a file under a name that no other has. Raises FileExistsError."""
    try:
        os.link(aside, path)
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        with open(aside, "rb") as data, open(path, "xb") as file:  # a disk without links
            shutil.copyfileobj(data, file)


def create(uri: str, data: bytes, endpoint: str | None) -> bool:
    """Write an object only if there is none of that name; returns whether this call did.

    It appears complete, and of many calls at once one wins. On S3 this is a put with
    `If-None-Match: *`, which Arrow's client does not know. A store that ignores the condition lets
    every call win.
    """
    protocol = protocol_of(uri)
    path = absolute(uri).split("://", 1)[-1]
    try:
        if protocol == "file":
            _write_aside(path, data, _bring_first)
        else:
            with rights(uri, endpoint):
                open_fsspec(protocol, endpoint).pipe_file(path, data, mode="create")
    except FileExistsError:
        pass
    except OSError as e:
        status = (
            getattr(e.__cause__, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
        )
        # s3fs knows only one server's wording of a failed condition.
        if status not in (409, 412):
            raise
    else:
        return True
    # The answer to a put that went well may be lost, and its second try then meets the first.
    return get(uri, endpoint) == data


def get(uri: str, endpoint: str | None) -> bytes:
    """The whole content of a file or object. Raises FileNotFoundError."""
    fs, path = open_filesystem(uri, endpoint)
    try:
        with rights(uri, endpoint), fs.open_input_stream(path, compression=None) as stream:
            return stream.read()
    except (FileNotFoundError, DeniedError):
        raise
    except OSError as e:  # S3, of one that was deleted since it was opened
        if fs.get_file_info(path).type != pafs.FileType.NotFound:
            raise
        raise FileNotFoundError(uri) from e


@contextlib.contextmanager
def opened(uri: str, endpoint: str | None) -> Iterator["pa.NativeFile"]:
    """A file or object, to be read in places. Raises FileNotFoundError."""
    fs, path = open_filesystem(uri, endpoint)
    with rights(uri, endpoint), fs.open_input_file(path) as file:
        yield file


def delete(uri: str, endpoint: str | None) -> None:
    """Delete a file or object; one that is gone already is no error."""
    fs, path = open_filesystem(uri, endpoint)
    with contextlib.suppress(FileNotFoundError), rights(uri, endpoint):
        fs.delete_file(path)


def check_access(uri: str, probe: str, endpoint: str | None) -> None:
    """List a folder, and write, read and delete one small object in it, whose path is `probe`.

    Raises OSError; a DeniedError names every right that is missing. Nothing is left there: without
    the right to delete, nothing is written.
    """
    place, missing = f"{uri}/{probe}", list[str]()

    def attempt(what: Callable[..., object], *given: object) -> None:
        try:
            what(*given, endpoint)
        except FileNotFoundError:  # it could not be written, and may be read
            pass
        except DeniedError as e:
            missing.extend(e.actions)

    is_s3 = protocol_of(uri) == "s3"
    remove = _delete_unseen if is_s3 else delete
    if is_s3:
        attempt(is_listed, uri)
    attempt(remove, place)
    if not missing or missing == [LIST]:
        attempt(put, place, b"rsr_ray")
        attempt(get, place)
        attempt(remove, place)
    if missing:
        raise DeniedError.of(tuple(dict.fromkeys(missing)), uri)


def _delete_unseen(uri: str, endpoint: str | None) -> None:
    """Delete an object of S3 without a look at it: for one that is gone S3 says the same."""
    with rights(uri, endpoint):
        open_fsspec("s3", endpoint).rm_file(uri.split("://", 1)[1])
