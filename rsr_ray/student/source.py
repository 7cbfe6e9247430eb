"""Where a student's files are, and what tells whether they changed."""

import contextlib
import functools
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rsr_ray.errors import RunError, UserError

FileStates = dict[str, tuple[int, ...]]
LOADED = (
    "*.safetensors",
    "*.index.json",
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
    "*.model",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.json",
)


def file_states(folder: str) -> FileStates:
    """What a write to a loaded file changes: its inode, size and times.

    The last of the times cannot be set back.
    """
    states: FileStates = {}
    for path in (path for pattern in LOADED for path in Path(folder).glob(pattern)):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile, or a link to nothing
            if not path.is_dir():
                states[path.name] = file_state(path)
    return states


def file_state(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def files_changed(student: str) -> RunError:
    return RunError(
        f"student {student}: its files changed while the run was starting, so nothing was scored "
        "with them; rerun the command once they are complete"
    )


@functools.lru_cache(maxsize=8)
def resolve(student: str) -> str:
    """A local folder that holds the student: the one given, or the snapshot of a hub id.

    A hub id is `org/name` or `org/name@revision`. Replicas of one machine share the hub's cache, so
    weights are fetched once a machine. Raises UserError.
    """
    if os.path.isdir(student):
        return os.path.abspath(student)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = student.partition("@")
    wanted = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
    try:
        return snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=wanted,
            ignore_patterns=["consolidated*"],
        )
    except HFValidationError as e:
        raise UserError(f"student {student}: no such folder, and not a hub id") from e
    except Exception as e:
        # the hub client raises many kinds; each means that the student cannot be had
        raise UserError(
            f"student {student}: no such folder, and not available from the hub: "
            f"{' '.join(str(e).split())[:200]}"
        ) from e


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hash_files(paths: list[Path]) -> str:
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        hashes = list(pool.map(_hash_file, paths))
    return hash_text(json.dumps([[p.name, h] for p, h in zip(paths, hashes, strict=True)]))


def _hash_file(path: Path) -> str:
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob):
        return blob  # the hub's cache names a file by its sha256
    return _hash_content(path, file_state(path))


@functools.lru_cache(maxsize=1000)
def _hash_content(path: Path, state: tuple[int, ...]) -> str:
    """The file's sha256; read once as long as its state is the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
