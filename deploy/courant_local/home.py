"""Where a stack keeps its state, and who may use it: folders, lock, secrets, the file that tells.

A home is one folder (`COURANT_HOME`, else `.courant` in the project). Two homes with other ports
are two stacks that know nothing of each other.
"""

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from courant.postgres.grants import GRANTS

PROJECT = Path(__file__).resolve().parents[2]


class Occupied(Exception):
    """Another supervisor holds this home."""


def home() -> Path:
    """Give the folder of this stack's state; it need not exist yet."""
    if chosen := os.environ.get("COURANT_HOME"):
        return Path(chosen).resolve()
    # Installed from a checkout, the state stands beside the code, wherever the command is called.
    root = PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()
    return root / ".courant"


def cache() -> Path:
    """Give the folder for what is downloaded or made once and suits every stack of this user."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder).resolve() / "courant"


@contextmanager
def locked(file: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file's lock as long as the block lasts; Occupied if another process has it.

    The kernel lets go of it when the process ends, however it ends: no stale lock is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            reason = f"a stack already runs from {file.parent} (supervisor {held.read().strip()})"
            raise Occupied(f"{reason}; `courant down` stops it") from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def write(file: Path, value: Any, mode: int = 0o644) -> None:
    """Put the value there as JSON, whole or not at all: readers never see half of it."""
    half = file.with_suffix(".half")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(value, opened, indent=2)
    half.replace(file)


def read(file: Path) -> dict[str, Any]:
    """Give what was written there, {} where nothing was."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found


def own_secrets(folder: Path) -> dict[str, str]:
    """Give this home's secrets, made at the first call and kept in a file only its owner reads.

    One that is missing, since the home was made by an earlier version, is made then.
    """
    file = folder / "secrets.json"
    known = read(file)
    made = {
        "postgres_password": secrets.token_hex(16),
        "seal_keys": f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "hash_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "cluster_id": cluster_id(),
        **{f"{role}_password": secrets.token_hex(16) for role in GRANTS},
    }
    if made.keys() - known.keys():
        folder.mkdir(parents=True, exist_ok=True)
        write(file, {**made, **known}, mode=0o600)
    return read(file)


def cluster_id() -> str:
    """Make a name for a new Kafka cluster: 22 characters of URL-safe base64."""
    # One that begins with a dash would be taken for an option of the tool that formats.
    return "C" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")[1:]
