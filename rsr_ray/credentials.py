"""Credentials: refused in settings, and taken out of all that is printed, logged or kept.

A setting is kept in run records, and a URI in every score row. So a password, key or token has no
place in either. An `@` is not enough to tell: revisions, nights, containers and paths have one too.
What is refused and what is taken out is found by one function, `_find`, so neither can know of a
credential that the other does not.
"""

import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from rsr_ray.errors import UserError

HIDDEN = "***"
Span = tuple[int, int]  # [start, stop) of a text

# --- a URI's login --------------------------------------------------------------------------------

# Whose part before an `@` is a name: Azure's container, or a login without its password.
CONTAINER = ("abfs", "abfss", "az", "adl", "wasb", "wasbs")
LOGIN = ("sftp", "ssh", "hdfs", "webhdfs", "smb", "ftp")
# Behind which there is a path, or a repository with its revision, and no host.
HOSTLESS = ("file", "local", "memory", "zip", "tar", "libarchive", "dir", "github")
WITH_PORT = (*LOGIN, "http", "https", "ray", "tcp", "grpc", "ws", "wss")

SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,40})://", re.IGNORECASE)
END = re.compile(r"\s|[\"'<>](?=[\s,;:.)\]}\\]|$)")  # of a URI in a sentence, a list or JSON
PORT = re.compile(r"(\[[0-9a-f:.]+\]|[^:@]*)(:[0-9]{0,5})?", re.IGNORECASE)
HOST = (
    r"(?:[a-z0-9-]{1,63}\.){1,8}(?:[a-z]{2,24}|[0-9]{1,3}(?=[:/]))(?::[0-9]{2,5})?"
    r"|(?:[a-z0-9-]{1,63}|\[[0-9a-f:.]+\]):[0-9]{2,5}"
    r"|localhost"
)
WITH_HOST = re.compile(rf"(?:{HOST})(?![a-z0-9])", re.IGNORECASE)

# --- named, or known by its looks -----------------------------------------------------------------

BEGIN = r"(?<![^\s\"'`,;?&(\[{=])"
VALUE = r"(?P<secret>(?!\*\*\*)[^&;,\s\"'`<>\\)\]}]+)"
# Names that say a secret wherever they stand, and those that do so in a URI only.
ANYWHERE = (
    r"(?:secret|passw(?:or)?d|passphrase|pwd|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|secret[_-]?(?:access[_-]?)?key|account[_-]?key"
    r"|shared[_-]?access[_-]?key|shared[_-]?access[_-]?signature|private[_-]?key"
    r"|signature|credentials?"
    r"|(?:auth|access|session|security|refresh|bearer|hf|private|github|api)[_-]?token)"
)
IN_URI = (
    rf"(?:[a-z0-9_.-]{{0,60}}?(?:token|subscription-key|auth-?key|{ANYWHERE})"
    r"|sig|auth|authorization|key|pass|pw|sas|jwt)"
)
HEADER = (
    r"(?:(?:proxy-)?authorization|x-api-key|api-key|private-token|x-auth-token"
    r"|x-amz-security-token|cookie|set-cookie)"
)
NAMED = [
    rf"(?:(?<=[?&;#])|(?<=\\u0026)){IN_URI}=(?P<secret>(?!\*\*\*)[^&;\s\"'\\]+)",
    rf"{BEGIN}[a-z0-9_.-]{{0,60}}{ANYWHERE}\s?=\s?[\"']?(?!none\b|null\b|true\b|false\b){VALUE}",
    rf"{BEGIN}[a-z0-9_.-]{{0,60}}{ANYWHERE}:\s(?=\S*[0-9]){VALUE}",
    rf"[\"'][a-z0-9_.-]{{0,60}}{ANYWHERE}\\?[\"']\s?:\s?\\?[\"'](?P<secret>(?!\*\*\*)[^\"'\\\s]+)",
    rf"--[a-z0-9-]{{0,40}}(?:token|secret|password|api-key|access-key)[= ](?!-){VALUE}",
    rf"\b{HEADER}\\?[\"']?:\s?\\?[\"']?(?:(?:bearer|basic|token|digest)\s)?+{VALUE}",
    rf"\b{HEADER}\\?[\"']?:\s?\\?[\"']?[a-z]{{3,12}}=(?P<secret>[^;\s\"'\\]+)",
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?P<secret>(?!\*\*\*).+?)(?=-----END|$)",
]
# The variables of an environment shout.
VARIABLE = rf"{BEGIN}[A-Z0-9_]{{0,60}}(?:TOKEN|SECRET|PASSWORD|_KEY)={VALUE}"
SHARED_ACCESS = r"\bSharedAccessSignature=(?P<secret>(?!\*\*\*)[^;\s\"'\\]+)"
BEARER = r"\b(?i:bearer|basic)\s(?P<secret>(?=\S*[0-9=])[A-Za-z0-9+/=._~-]{16,})"
# Tokens that are known by their looks, wherever they stand.
TOKEN = (
    r"(?<![A-Za-z0-9])(?P<secret>"
    r"(?:hf_|api_org_|gh[pousr]_|npm_|r8_|gsk_|dop_v1_|dapi)[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}"
    r"|(?:glpat-|hvs\.|ya29\.|pypi-AgE)[A-Za-z0-9_-]{16,}"
    r"|(?:nvapi-|AIza)[A-Za-z0-9_-]{30,}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|sk-(?:(?:proj|ant|svcacct|admin|or)-[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{32,})"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)*)"
)
PATTERNS = [re.compile(pattern, re.IGNORECASE | re.DOTALL) for pattern in NAMED]
PATTERNS += [re.compile(pattern) for pattern in (VARIABLE, SHARED_ACCESS, BEARER, TOKEN)]

# Variables whose values are secrets, for whatever a library quotes of them; some only say where the
# secret lies.
VARIABLES = re.compile(r"SECRET|TOKEN|PASSW|_SAS|ACCOUNT_KEY|CONNECTION_STRING|API_KEY")
PLACES = re.compile(r"_(FILE|PATH|DIR|URI|URL|ARN)$")

HOW = (
    "credentials come from the AWS variables, the machine's role, fsspec's configuration or "
    "HF_TOKEN, never from a setting, because settings are kept in records: remove the password, "
    "key or token"
)


def refuse_credentials(setting: str, value: Any) -> None:
    """Raise UserError where a setting holds credentials, without saying which."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(text, str) and _find(text) for text in texts):
        raise UserError(f"{setting}: contains what looks like credentials and is refused: {HOW}")


def scrub(text: str) -> str:
    """A text without the credentials in it, of whatever is printed, logged or kept."""
    pieces, done = [], 0
    for start, stop in _find(text, _secrets_of_environment()):
        pieces += [text[done:start], HIDDEN]
        done = stop
    return "".join([*pieces, text[done:]])


def scrubbed(value: Any) -> Any:
    """A record, or any part of one, with its texts and keys scrubbed."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrubbed(key): scrubbed(one) for key, one in value.items()}
    return [scrubbed(one) for one in value] if isinstance(value, (list, tuple)) else value


class Scrub(logging.Filter):
    """Takes the credentials out of what a logger says."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = scrub(record.getMessage()), None
        return True


def _find(text: str, secrets: tuple[str, ...] = ()) -> list[Span]:
    """Where credentials stand in a text, in order and apart, spelt with percent signs or not."""
    found: list[Span] = []
    for spelt, places in _spellings(text):
        spans = [*_logins(spelt), *_addresses(spelt), *_named(spelt), *_quoted(spelt, secrets)]
        found += [(places[start], places[stop]) for start, stop in spans]
    apart: list[Span] = []
    for start, stop in sorted(found):
        if apart and start <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(stop, apart[-1][1]))
        else:
            apart.append((start, stop))
    return [(start, stop) for start, stop in apart if text[start:stop] != HIDDEN]


ESCAPE = re.compile(r"%([0-7][0-9a-f])", re.IGNORECASE)


def _spellings(text: str) -> Iterator[tuple[str, list[int] | range]]:
    """A text as it is, and with its percent signs read once and again, up to five times.

    Each with the place in `text` of each of its characters, and of its end. Somebody reads them, at
    some place of the way.
    """
    places: list[int] | range = range(len(text) + 1)
    yield text, places
    for _ in range(5):
        pieces, kept, done = [], list[int](), 0
        for escape in ESCAPE.finditer(text):
            pieces += [text[done : escape.start()], chr(int(escape[1], 16))]
            kept += places[done : escape.start() + 1]
            done = escape.end()
        if not pieces:
            return
        text, places = "".join([*pieces, text[done:]]), [*kept, *places[done:]]
        yield text, places


def _named(text: str) -> Iterator[Span]:
    for pattern in PATTERNS:
        for match in pattern.finditer(text):
            yield match.span("secret")


def _quoted(text: str, secrets: tuple[str, ...]) -> Iterator[Span]:
    for secret in secrets:
        start = text.find(secret)
        while start >= 0:
            yield start, start + len(secret)
            start = text.find(secret, start + len(secret))


def _logins(text: str) -> Iterator[Span]:
    """What stands before the `@` of a URI as a login with its secret, or as a token."""
    schemes = list(SCHEME.finditer(text))
    for n, match in enumerate(schemes):
        after = schemes[n + 1].start() if n + 1 < len(schemes) else len(text)
        end = END.search(text, match.end(), after)
        rest = text[match.end() : end.start() if end else after]
        if length := _login(match[1].lower(), rest):
            yield match.end(), match.end() + length


def _login(scheme: str, rest: str) -> int:
    """Of how many characters behind `scheme://` a login is; 0 where there is none."""
    scheme = scheme.rpartition("+")[2]  # git+ssh
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, host = head.rpartition("@")
    if scheme in HOSTLESS or user == HIDDEN:
        return 0
    if at:
        is_name = scheme in (*CONTAINER, *LOGIN) and ":" not in user
        if is_name:
            return 0
        # A password may hold / ? # and @: what looks like the host may then be a part of it.
        is_host = "@" not in rest[len(head) :] or (
            ":" not in user and bool(WITH_HOST.fullmatch(host))
        )
        return len(user) if is_host else rest.rindex("@")
    # A key may hold / ? and #: then what looks like the host and its port is a name and the start
    # of a key.
    is_host = scheme in WITH_PORT and bool(PORT.fullmatch(head))
    return rest.rindex("@") if "@" in rest and ":" in head and not is_host else 0


ADDRESS = re.compile(
    rf"{BEGIN}(?!mailto:)[a-z0-9._%+-]{{1,64}}"
    rf":(?P<secret>(?!\*\*\*)[^\s/\\:@\"'<>]{{1,200}})@(?:{HOST})(?![a-z0-9])",
    re.IGNORECASE,
)


def _addresses(text: str) -> Iterator[Span]:
    """The password of `name:password@host`, as proxies are written.

    The host needs a domain or a port.
    """
    for match in ADDRESS.finditer(text):
        yield match.span("secret")


def _secrets_of_environment() -> tuple[str, ...]:
    """Values of the variables that hold secrets; short ones might be words."""
    names = [
        name
        for name in os.environ
        if VARIABLES.search(name.upper()) and not PLACES.search(name.upper())
    ]
    return tuple({secret for name in names if len(secret := os.environ[name]) >= 12})
