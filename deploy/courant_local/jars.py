"""Kafka's jars: named in a committed list, fetched once, and used only if they match the list.

The list (jars.txt) is flat: coordinates and SHA-256 of the broker and of everything that it needs.
Nothing is resolved here, so the same bytes run on every machine.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests
from jgo.maven import MavenContext, PythonResolver

from courant_local.home import cache, locked

LIST = Path(__file__).with_name("jars.txt")
TIMEOUT_SECONDS = 60
AT_ONCE = 8
TRIES = 3

Report = Callable[[int, int], None]


class JarsMissing(Exception):
    """Some jars are missing and cannot be fetched."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the list."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


Bring = Callable[[Jar, Path], Path]
"""Fetches one jar into a folder and returns its path."""


def listed(text: str | None = None) -> tuple[Jar, ...]:
    """Return the jars in the order of the list, which is the order of the class path."""
    lines = (text or LIST.read_text()).splitlines()
    return tuple(Jar(*line.replace(":", " ").split()) for line in lines)


def download(jar: Jar, folder: Path) -> Path:
    """Fetch one jar into the folder, unchecked."""
    maven = MavenContext(resolver=PythonResolver(), repo_cache=folder, timeout=TIMEOUT_SECONDS)
    file: Path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    return file


def class_path(
    report: Report | None = None,
    jars: Sequence[Jar] | None = None,
    bring: Bring = download,
) -> list[Path]:
    """Return the jars' files, each checked; fetch those that are missing or differ.

    Calls the report with (jars here, jars in all) as they arrive. Raises JarsMissing.
    """
    wanted = listed() if jars is None else jars
    folder = cache() / "jars"
    if any(not _right(jar, folder / jar.name) for jar in wanted):
        with locked(folder / "lock", wait=True):
            _fill(folder, wanted, report, bring)
    return [folder / jar.name for jar in wanted]


def _fill(
    folder: Path,
    wanted: Sequence[Jar],
    report: Report | None,
    bring: Bring,
) -> None:
    missing = [jar for jar in wanted if not _right(jar, folder / jar.name)]
    # jgo downloads straight into its cache and trusts any file there, so an interrupted download
    # would pass as a jar. So its cache is deleted, and a jar is moved only once it is checked.
    with tempfile.TemporaryDirectory(dir=folder) as staging, ThreadPoolExecutor(AT_ONCE) as pool:
        came = pool.map(lambda jar: _fetch(jar, Path(staging), folder, bring), missing)
        here = len(wanted) - len(missing)
        for number, _ in enumerate(came, start=here + 1):
            if report:
                report(number, len(wanted))


def _fetch(jar: Jar, staging: Path, folder: Path, bring: Bring) -> None:
    reason = ""
    for number in range(TRIES):
        try:
            file = bring(jar, staging / f"{jar.name}.{number}")
        except (RuntimeError, OSError, requests.RequestException) as raised:
            reason = f"{type(raised).__name__}: {raised}"
            continue
        if _right(jar, file):
            shutil.move(file, folder / jar.name)
            return
        reason = "what came has another SHA-256 than the list says"
    raise JarsMissing(
        f"{jar.name} cannot be had ({reason}). Kafka's jars are fetched once, over HTTPS, "
        f"into {folder}; is the network there?"
    )


def _right(jar: Jar, file: Path) -> bool:
    """Return whether the file is this jar; delete it if it is not."""
    if not file.exists():
        return False
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() == jar.sha256:
            return True
    file.unlink(missing_ok=True)
    return False
