"""Where a stack keeps its state: folders, the lock, secrets, and the file that describes it.

A home is one folder (`COURANT_HOME`, else `.courant` in the project). Two homes with different
ports are two stacks that know nothing of each other.
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
    """Return the folder of this stack's state; it need not exist yet."""
    if chosen := os.environ.get("COURANT_HOME"):
        return Path(chosen).resolve()
    # In a checkout the state is beside the code, wherever the command is run.
    root = PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()
    return root / ".courant"


def cache() -> Path:
    """Return the folder for downloads and caches that all stacks of this user share."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder).resolve() / "courant"


@contextmanager
def locked(file: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file's lock during the block; raises Occupied if another process has it.

    The kernel releases the lock when the process ends, however it ends, so no stale lock remains.
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
    """Write the value as JSON, atomically: readers never see half of it."""
    half = file.with_suffix(".half")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(value, opened, indent=2)
    half.replace(file)


def read(file: Path) -> dict[str, Any]:
    """Return the stored value; {} if the file does not exist."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found


def own_secrets(folder: Path) -> dict[str, str]:
    """Return this home's secrets, from a file that only its owner can read.

    The first call makes them. A secret that an earlier version did not know is added.
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
    """Return a name for a new Kafka cluster: 22 characters of URL-safe base64."""
    # Kafka's formatting tool would read a name that begins with a dash as an option.
    return "C" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")[1:]
