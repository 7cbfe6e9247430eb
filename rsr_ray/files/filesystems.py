"""Where a URI leads: a disk, S3 and S3-compatible stores, and whatever else fsspec opens.

S3 data goes through Arrow's own client with ten attempts a request (its default of three does not
survive a busy store). Corpora are listed through s3fs, which knows ETags. Credentials come from the
usual AWS variables or the machine's role and are never taken as options.
"""

import functools
import os
from typing import TYPE_CHECKING

import pyarrow.fs as pafs

from rsr_ray.credentials import refuse_credentials
from rsr_ray.errors import UserError

if TYPE_CHECKING:
    import fsspec

ATTEMPTS = 10


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
def open_fsspec(protocol: str, endpoint: str | None) -> "fsspec.AbstractFileSystem":
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
        return pafs.PyFileSystem(pafs.FSSpecHandler(open_fsspec(protocol, endpoint))), path
    except (ImportError, ValueError) as e:
        raise UserError(f"cannot open {uri}: {e}") from e
