"""The version of Courant, the commit that it was built from, and the time of the build.

The build of an image sets COURANT_COMMIT and COURANT_BUILT_AT, because an image holds no history.
In a checkout git answers instead. It is asked once, when this module is imported, so that no
request ever waits for a process.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.1.0"
"""The version of the whole distribution; pyproject.toml reads it here."""

UNKNOWN = "unknown"
PROJECT = Path(__file__).resolve().parents[2]
GIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Build:
    """A commit and its build time (ISO 8601). Each is `unknown` if it cannot be found out."""

    commit: str
    built_at: str


def build(project: Path = PROJECT) -> Build:
    """Return the build from the environment, otherwise the last commit of the checkout."""
    commit = os.environ.get("COURANT_COMMIT")
    built_at = os.environ.get("COURANT_BUILT_AT")
    if commit or built_at:
        return Build(commit or UNKNOWN, built_at or UNKNOWN)
    # Without this, git would find the repository of whatever Courant is installed inside of.
    if not (project / ".git").exists():
        return Build(UNKNOWN, UNKNOWN)
    try:
        shown = subprocess.run(  # noqa: S603  (no shell, and nothing of it comes from outside)
            ["git", "-C", str(project), "log", "-1", "--format=%H %cI"],  # noqa: S607  (the user's git)
            capture_output=True,
            check=True,
            text=True,
            timeout=GIT_SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return Build(UNKNOWN, UNKNOWN)
    return Build(*shown.split())


BUILD = build()
