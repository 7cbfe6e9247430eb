"""Files and objects: local folders, S3 and S3-compatible stores, and whatever else fsspec opens.

S3 data goes through Arrow's own client with ten attempts a request (its default of three does not
survive a busy store). Corpora are listed through s3fs, which knows ETags. Credentials come from the
usual AWS variables or the machine's role and are never taken as options.
"""

import contextlib
import datetime
import functools
import glob
import hashlib
import itertools
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from rsr_ray.credentials import refuse_credentials
from rsr_ray.errors import UserError
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

if TYPE_CHECKING:
    import fsspec

ATTEMPTS = 10


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


def endpoint_of(option: str | None) -> str | None:
    """The S3 endpoint: the option, or what the AWS variables say; None is AWS itself.

    Raises UserError for one with credentials.
    """
    variables = {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
    setting, endpoint = next(
        ((name, url) for name, url in {"--s3-endpoint": option, **variables}.items() if url),
        ("", None),
    )
    refuse_credentials(
        setting,
        [endpoint, f"http://{endpoint}"] if endpoint and "://" not in endpoint else endpoint,
    )
    return endpoint


@functools.lru_cache
def _arrow_s3(endpoint: str | None) -> pafs.S3FileSystem:
    # newer SDKs add checksum trailers that other stores refuse, or worse, store as data (boto#4398)
    if endpoint:
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    region = (
        os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or ("us-east-1" if endpoint else None)
    )
    return pafs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # one request for a small object, not the three of a multipart upload
        allow_delayed_open=True,
    )


@functools.lru_cache
def _fsspec(protocol: str, endpoint: str | None) -> "fsspec.AbstractFileSystem":
    import fsspec  # a tenth of a second, which --help need not wait for

    if protocol != "s3":
        return fsspec.filesystem(protocol)
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    return fsspec.filesystem(
        "s3",
        client_kwargs={"endpoint_url": endpoint} if endpoint else {},
        config_kwargs={"retries": {"mode": "standard", "max_attempts": ATTEMPTS}},
        use_listings_cache=False,
    )


def protocol_of(uri: str) -> str:
    return uri.split("://", 1)[0] if "://" in uri else "file"


def absolute(uri: str) -> str:
    """A local path made absolute; any other URI as it is, without a trailing slash."""
    if protocol_of(uri) != "file":
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def open_filesystem(uri: str, endpoint: str | None) -> tuple[pafs.FileSystem, str]:
    """The Arrow filesystem of a URI and the path on it."""
    protocol = protocol_of(uri)
    if protocol == "file":
        return pafs.LocalFileSystem(), absolute(uri)
    path = uri.split("://", 1)[1].rstrip("/")
    if protocol == "s3":
        return _arrow_s3(endpoint), path
    try:
        return pafs.PyFileSystem(pafs.FSSpecHandler(_fsspec(protocol, endpoint))), path
    except (ImportError, ValueError) as e:
        raise UserError(f"cannot open {uri}: {e}") from e


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
        found, skipped = (_find_local if protocol_of(uri) == "file" else _find_remote)(
            uri, endpoint, endings
        )
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
    fs = _fsspec(protocol, endpoint)
    fs.invalidate_cache()
    path = uri.split("://", 1)[1].rstrip("/")
    if fs.exists(path):
        found = fs.find(path, detail=True)
        root, named = path, not fs.isdir(path)
    elif glob.has_magic(path):
        found = {p: i for p, i in fs.glob(path, detail=True).items() if i["type"] == "file"}
        root, named = (
            path[: path.index(next(c for c in path if c in "*?["))].rsplit("/", 1)[0],
            False,
        )
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


def version_of(uri: str, endpoint: str | None) -> str | None:
    """The version of an object as it is now, as `list_objects` says it; None where it is gone."""
    try:
        if protocol_of(uri) == "file":
            facts = os.stat(absolute(uri))  # of what a link leads to
            return _version({"size": facts.st_size, "mtime": facts.st_mtime})
        fs = _fsspec(protocol_of(uri), endpoint)
        fs.invalidate_cache()
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
    with ThreadPoolExecutor(16) as pool:
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
        with fs.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def create(uri: str, data: bytes, endpoint: str | None) -> bool:
    """Write an object only if there is none of that name; returns whether this call did.

    Of many calls at once one wins. On S3 this is a put with `If-None-Match: *`, which Arrow's
    client does not know. A store that ignores the condition lets every call win.
    """
    protocol = protocol_of(uri)
    path = absolute(uri).split("://", 1)[-1]
    try:
        if protocol == "file":
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
        else:
            _fsspec(protocol, endpoint).pipe_file(path, data, mode="create")
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
    with fs.open_input_stream(path, compression=None) as stream:
        return stream.read()


def delete(uri: str, endpoint: str | None) -> None:
    """Delete a file or object; one that is gone already is no error."""
    fs, path = open_filesystem(uri, endpoint)
    with contextlib.suppress(FileNotFoundError):
        fs.delete_file(path)
