"""Rights to a bucket: which one is missing where S3 refuses a request.

S3 says no more than "access denied", and it says so too of an object that is not there, to those
who may list only a part of the bucket. Which of both it is, a listing tells.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import open_fsspec, protocol_of
from rsr_ray.files.listing import MAGIC

LIST, READ = "s3:ListBucket", "s3:GetObject"
WRITE, DELETE = "s3:PutObject", "s3:DeleteObject"
ACTIONS = {
    "ListObjectsV2": LIST,
    "ListObjects": LIST,
    "HeadBucket": LIST,
    "HeadObject": READ,
    "GetObject": READ,
    "PutObject": WRITE,
    "CreateMultipartUpload": WRITE,
    "UploadPart": WRITE,
    "CompleteMultipartUpload": WRITE,
    "DeleteObject": DELETE,
    "DeleteObjects": DELETE,
}
REFUSED = re.compile(
    r"AWS Error (?:ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH) during (\w+)"
)


class DeniedError(UserError, PermissionError):
    """A right to a bucket is missing. `actions` are the rights, as policies name them."""

    actions: tuple[str, ...] = ()

    @classmethod
    def of(cls, actions: tuple[str, ...], uri: str) -> "DeniedError":
        are = "is" if len(actions) == 1 else "are"
        denied = cls(
            f"{', '.join(actions)} {are} denied on {uri}: grant this to the key or role in use "
            "(jobs/policies has what each command needs), or use another"
        )
        denied.actions = actions
        return denied


@contextmanager
def rights(uri: str, endpoint: str | None) -> Iterator[None]:
    """Raises DeniedError for what S3 refuses inside, and FileNotFoundError where that is only
    because the object is missing.
    """
    try:
        yield
    except OSError as e:
        operation = _refused(e)
        if isinstance(e, DeniedError) or protocol_of(uri) != "s3" or operation is None:
            raise
        action = ACTIONS.get(operation, operation)
        if action in (LIST, READ) and not is_listed(uri, endpoint) and action == READ:
            raise FileNotFoundError(f"{uri} does not exist") from e
        raise DeniedError.of((action,), uri) from e


def is_listed(uri: str, endpoint: str | None) -> bool:
    """Whether a bucket has an object of that name, or any below it.

    Raises DeniedError where what is below it may not be listed, UserError for other credentials
    than the store knows.
    """
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    below = f"{key}/" if key else ""
    if _first(bucket, below, uri, endpoint) is not None:
        return True
    try:
        return _first(bucket, key, uri, endpoint) == key
    except DeniedError:  # those who may list a folder need not see what lies beside it
        return False


def check_readable(uri: str, endpoint: str | None) -> None:
    """Raises DeniedError where the first object of a corpus may not be found or read.

    Says nothing of a corpus without any.
    """
    if protocol_of(uri) != "s3":
        return
    bucket, _, key = uri.split("://", 1)[1].rstrip("/").partition("/")
    if magic := MAGIC.search(key):
        key = key[: magic.start()].rpartition("/")[0]
    if first := _first(bucket, f"{key}/" if key else "", uri, endpoint):
        one = f"s3://{bucket}/{first}"
        with rights(one, endpoint):
            open_fsspec("s3", endpoint).call_s3("head_object", Bucket=bucket, Key=first)


def _first(bucket: str, prefix: str, uri: str, endpoint: str | None) -> str | None:
    """The first key with a prefix, or None."""
    fs = open_fsspec("s3", endpoint)
    try:
        found = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except PermissionError as e:
        code = getattr(e.__cause__, "response", {}).get("Error", {}).get("Code")
        if code not in (None, "403", "AccessDenied"):
            raise UserError(
                f"{uri}: the store refuses the credentials in use ({code}): check the AWS "
                "variables, the profile or the role"
            ) from e
        raise DeniedError.of((LIST,), uri) from e
    return next((one["Key"] for one in found.get("Contents", [])), None)


def _refused(e: OSError) -> str | None:
    """The operation that S3 refused, or None for any other error."""
    if isinstance(e, PermissionError):  # of s3fs
        return getattr(e.__cause__, "operation_name", None)
    said = REFUSED.search(str(e))  # of Arrow
    return said[1] if said else None
