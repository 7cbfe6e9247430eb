"""images: what a row says of its images -> their bytes.

In the text of a turn an image is `MARK`, and the turn's `images` tells what stands there: first as
the row has it (a `Reference`), then, once it is read, as the sha256 of its bytes.
"""

import base64
import errno
import hashlib
import http.client
import os
import posixpath
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from rsr_ray.corpus.row_faults import Row
from rsr_ray.errors import BadRow, RunError, UserError, one_line
from rsr_ray.files.filesystems import open_filesystem, protocol_of
from rsr_ray.files.rights import rights

MARK = "\ufffc"  # the object replacement character
COLUMNS = ("images", "image")  # of a row
PLACEHOLDER = "<image>"  # in the text of rows whose images are in a column
PARTS = ("image", "image_url", "input_image")  # types of a part of a turn's content
KEYS = ("image", "image_url", "url", "path", "base64", "data", "bytes", "source", "file")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_BYTES = 32 << 20  # of an image as it is stored
MAX_ROW_BYTES = 128 << 20  # of all images of a row
MAX_PATH = 1024  # bytes, as S3 has it
NO_FILE = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
SECONDS = 30.0  # that an HTTP server may be silent, and twice that it may take for an image
TRIES = 3

Reference = str | bytes | None  # a path, URL or data URL; the image; the next of the row's column


class Media(NamedTuple):
    """Where images may come from."""

    root: str | None = None  # a folder or bucket, outside which nothing is opened
    allow_http: bool = False


NOT_SAID = Media()


def check_root(media: Media, endpoint: str | None) -> None:
    """Raise UserError if there is no such folder to take images from."""
    if media.root is None:
        return
    fs, path = open_filesystem(media.root, endpoint)
    with rights(media.root, endpoint):
        if fs.get_file_info(path).type != pafs.FileType.Directory:
            raise UserError(f"--media-root {media.root}: no such folder, or nothing is in it")


def is_image_part(part: Any) -> bool:
    """Whether a part of a turn's content is an image."""
    return isinstance(part, dict) and part.get("type") in PARTS


def reference_of(value: Any) -> Reference:
    """What a value says of one image: a part of a turn, or an element of a column. Raises BadRow
    for what says nothing that is known.
    """
    if isinstance(value, (str, bytes)) or value is None:
        return value
    if not isinstance(value, Mapping):
        raise BadRow("media", f"an image is given as {type(value).__name__}")
    given = {key: value[key] for key in KEYS if value.get(key) is not None}
    stored = given.get("bytes")
    if isinstance(stored, bytes):  # beside it, `path` is only its name
        return stored
    if len(given) > 1:
        raise BadRow("media", f"an image is given twice, as {' and '.join(given)}")
    for key, one in given.items():
        if key in ("base64", "data"):
            return _from_base64(one)
        return reference_of(one)
    return None


def in_parts(turn: Row, images: Sequence[Row]) -> Row:
    """A turn with its content as a list of parts: `images` are those in the places of its MARKs."""
    rest = {key: value for key, value in turn.items() if key != "images"}
    texts = turn["content"].split(MARK) if images else [turn["content"]]
    parts = [dict(image) for image in images]
    every = [part for pair in zip(({}, *parts), _texts(texts), strict=True) for part in pair]
    return {**rest, "content": [part for part in every if part and part.get("text") != ""]}


def _texts(texts: Sequence[str]) -> list[Row]:
    return [{"type": "text", "text": text} for text in texts]


def references_of(row: Mapping[str, Any]) -> list[Reference]:
    """The images in the columns of a row. Raises BadRow where two columns have some."""
    found = {name: _of_column(row.get(name)) for name in COLUMNS}
    found = {name: some for name, some in found.items() if some}
    if len(found) > 1 and len({repr(some) for some in found.values()}) > 1:
        raise BadRow("media", "the columns images and image contain different images")
    return next(iter(found.values()), [])


def _of_column(value: Any) -> list[Reference]:
    """A column may be called so and hold something else: then it has no images."""
    some = value if isinstance(value, list) else [value]
    there = [one for one in some if one is not None]
    return [reference_of(one) for one in there] if there and all(map(_is_image, there)) else []


def _is_image(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith("data:image/") or value.lower().endswith(ENDINGS)
    return isinstance(value, bytes) or (
        isinstance(value, Mapping) and bool({*value} & {"bytes", "path", "url"})
    )


def read_image(reference: str | bytes, media: Media, endpoint: str | None) -> bytes:
    """The bytes of an image. Raises BadRow where there are none that may be read, RunError where
    the store does not answer.
    """
    if isinstance(reference, bytes):
        data = reference
    elif reference.startswith("data:"):
        head, comma, text = reference.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadRow("media", f"an image has a data URL that is not base64: {head:.60}")
        data = _from_base64(text)
    elif protocol_of(reference) in ("http", "https"):
        data = _fetched(reference, media)
    else:
        data = _below_root(reference, media, endpoint)
    if len(data) > MAX_BYTES:
        raise BadRow("media", f"an image has more than {MAX_BYTES >> 20} MiB")
    if not data:
        raise BadRow("media", "an image has 0 bytes")
    return data


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise BadRow("media", f"base64 data of an image is {type(text).__name__}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as e:  # binascii.Error, and what is not ASCII
        raise BadRow("media", f"an image is not valid base64: {e}") from e


def _fetched(url: str, media: Media) -> bytes:
    if not media.allow_http:
        raise BadRow("media", f"{url:.200}: not fetched; --allow-http-media allows it")
    problem: Exception | None = None
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                return _read_in_time(answer)
        except urllib.error.HTTPError as e:
            if e.code < 500 and e.code != 429:
                raise BadRow("media", f"{url:.200}: HTTP {e.code}") from e
            problem = e
        except (OSError, ValueError, http.client.HTTPException) as e:
            problem = e
    raise BadRow("media", f"{url:.200}: cannot be fetched: {one_line(problem)}") from problem


def _read_in_time(answer: http.client.HTTPResponse) -> bytes:
    """What a server sends, though it sends slowly. Raises TimeoutError."""
    data = b""
    end = time.monotonic() + 2 * SECONDS
    while len(data) <= MAX_BYTES and (some := answer.read1(1 << 20)):
        data += some
        if time.monotonic() > end:
            raise TimeoutError(f"not whole after {2 * SECONDS:g} s")
    if answer.length and len(data) <= MAX_BYTES:
        raise http.client.IncompleteRead(data, answer.length)
    return data


def _below_root(reference: str, media: Media, endpoint: str | None) -> bytes:
    if media.root is None:
        raise BadRow("media", f"{reference:.200}: pass the folder it is in as --media-root")
    uri = _uri_below(reference, media.root)
    fs, path = open_filesystem(uri, endpoint)
    if protocol_of(uri) == "file":
        _check_inside(path, media.root, reference)
    try:
        with rights(uri, endpoint), fs.open_input_stream(path, compression=None) as file:
            return bytes(file.read(MAX_BYTES + 1))
    except (OSError, pa.ArrowException) as e:
        if isinstance(e, FileNotFoundError) or getattr(e, "errno", None) in NO_FILE:
            raise BadRow("media", f"{reference:.200}: not found below {media.root}") from e
        raise RunError(f"image {uri}: it cannot be read: {one_line(e)}") from e


def _uri_below(reference: str, root: str) -> str:
    """Where a reference leads. Raises BadRow if that is not below the root."""
    path = reference
    if protocol_of(reference) == "file":
        path = unquote(reference.removeprefix("file://")) if "://" in reference else reference
    if path == root or not path.startswith(f"{root.rstrip('/')}/"):
        if "://" in path or posixpath.isabs(path):
            raise BadRow("media", f"{reference:.200}: outside --media-root {root}")
        path = f"{root.rstrip('/')}/{path}"
    if ".." in path.replace("\\", "/").split("/") or "\0" in path:
        raise BadRow("media", f"{reference:.200}: leads out of --media-root")
    if (n_bytes := len(path.encode(errors="replace"))) > MAX_PATH:
        raise BadRow("media", f"{reference:.200}...: a path of {n_bytes:,} bytes")
    # a bucket takes dots and empty names in a key as they are, and Arrow refuses empty ones
    scheme, slashes, rest = path.rpartition("://")
    return f"{scheme}{slashes}{posixpath.normpath(rest)}"


def _check_inside(path: str, root: str, reference: str) -> None:
    """Raise BadRow for a link out of the root, and for what is no plain file."""
    real, inside = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, inside]) != inside:
        raise BadRow("media", f"{reference:.200}: a link that leads out of --media-root")
    if os.path.exists(real) and not stat.S_ISREG(os.stat(real).st_mode):
        raise BadRow("media", f"{reference:.200}: not a file")
