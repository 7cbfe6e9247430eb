"""Credentials: refused where they are given as part of a setting, and taken out of all that is printed, logged or kept.

A setting is kept in run records, and a URI in every score row. So a password, key or token has no place in either. An `@`
is not enough to tell: revisions, nights, containers and paths have one too.
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from rsr_ray.errors import UserError

HIDDEN = "***"
# Whose part before an `@` is a name: Azure's container, GitHub's repository, or a login without its password.
CONTAINER = ("abfs", "abfss", "az", "adl", "wasb", "wasbs")
REPOSITORY = ("github",)
LOGIN = ("sftp", "ssh", "hdfs", "webhdfs", "smb", "ftp")
WITH_PORT = (*LOGIN, "http", "https", "ray", "tcp", "grpc", "ws", "wss")

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
PORT = re.compile(r"(\[[0-9a-f:.]+\]|[^:@]*)(:[0-9]{0,5})?", re.IGNORECASE)
SECRET_NAMES = (
    r"(?:[a-z0-9_.-]*(?:token|secret|passw(?:or)?d|passwd|pwd|api[_-]?key|apikey|access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key"
    r"|signature|credential|credentials|accesskeyid)|sig|auth|authorization|key|pass|sas)"
)
PARAMETER = re.compile(rf"(?<=[?&;#])({SECRET_NAMES})=([^&;#\s\"'\\]+)", re.IGNORECASE)
# Tokens that are known by their looks, wherever they stand.
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|sk-(?:(?:proj|ant)-[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{32,})|xox[abprs]-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,})"
)
BEARER = re.compile(r"\b(Bearer|Basic)\s+(?=\S*[0-9=])[A-Za-z0-9+/=._~-]{16,}")
CONNECTION = re.compile(r"\b(AccountKey|SharedAccessSignature|SharedAccessKey)=[^;\s\"']+", re.IGNORECASE)
# Variables whose values are secrets, for whatever a library quotes of them.
VARIABLES = re.compile(r"SECRET|TOKEN|PASSW|_SAS|ACCOUNT_KEY|CONNECTION_STRING|API_KEY")

HOW = (
    "credentials come from the AWS variables or the machine's role, fsspec's configuration, or HF_TOKEN, and never from a setting, which is kept in "
    "records: take the password, key or token out of it"
)


def refuse_credentials(setting: str, value: Any) -> None:
    """Raise UserError where a setting holds credentials, without saying which."""
    if any(_has_credentials(text) for text in _texts(value)):
        raise UserError(f"{setting}: holds what looks like credentials, and is refused: {HOW}")


def scrub(text: str) -> str:
    """A text without the credentials in it, of whatever is printed, logged or kept."""
    text = _without_logins(text)
    text = PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = TOKEN.sub(HIDDEN, text)
    text = BEARER.sub(rf"\1 {HIDDEN}", text)
    text = CONNECTION.sub(rf"\1={HIDDEN}", text)
    for secret in _secrets_of_environment():
        text = text.replace(secret, HIDDEN)
    return text


def scrubbed(value: Any) -> Any:
    """A record, or any part of one, with its texts scrubbed."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {key: scrubbed(one) for key, one in value.items()}
    return [scrubbed(one) for one in value] if isinstance(value, (list, tuple)) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        for _ in range(3):  # what is spelt out with percent signs is read by somebody
            value, before = unquote(value), value
            if value == before:
                return
            yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _has_credentials(text: str) -> bool:
    patterns = (PARAMETER, TOKEN, BEARER, CONNECTION)
    return bool(list(_logins(text))) or any(pattern.search(text) for pattern in patterns)


def _logins(text: str) -> Iterator[tuple[int, int]]:
    """[start, stop) of what stands before the `@` of a URI as a login with its secret, or as a token."""
    schemes = list(SCHEME.finditer(text))
    for n, match in enumerate(schemes):
        end = schemes[n + 1].start() if n + 1 < len(schemes) else len(text)
        rest = re.split(r"[\s\"'<>]", text[match.end() : end])[0]
        rest = re.sub("%40", "@..", re.sub("%3A", ":..", rest, flags=re.IGNORECASE))
        if length := _login(match[1].lower(), rest):
            yield match.end(), match.end() + length


def _login(scheme: str, rest: str) -> int:
    """Of how many characters behind `scheme://` a login is; 0 where there is none."""
    head = re.split(r"[/?#]", rest)[0]
    user, at, _ = head.rpartition("@")
    if at:
        is_name = scheme in ("file", *REPOSITORY) or (scheme in (*CONTAINER, *LOGIN) and ":" not in user)
        return 0 if is_name else len(user)
    # A key may hold / ? and #: then what looks like the host and its port is a name and the start of a key.
    host = PORT.fullmatch(head)
    if "@" in rest and ":" in head and not (host and scheme in WITH_PORT) and scheme != "file":
        return rest.rindex("@")
    return 0


def _without_logins(text: str) -> str:
    pieces, done = [], 0
    for start, stop in _logins(text):
        pieces += [text[done:start], HIDDEN]
        done = stop
    return "".join([*pieces, text[done:]])


def _secrets_of_environment() -> list[str]:
    """Values of the variables that hold secrets, the longest first; short ones might be words."""
    found = {value for name, value in os.environ.items() if VARIABLES.search(name.upper())}
    return sorted((secret for secret in found if len(secret) >= 12), key=len, reverse=True)
