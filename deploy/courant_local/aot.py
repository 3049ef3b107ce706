"""Makes the JVM's ahead-of-time cache: `python -m courant_local.aot`."""

import os
import sys

from courant_local import aot_cache, jars
from courant_local.home import locked
from courant_local.kafka import Broker

TRAINING_STOP_SECONDS = 60


def make() -> None:
    """Make the cache by running a broker once, unless it exists; costs about 6 s of one core."""
    place = aot_cache.file(jars.class_path())
    with locked(place.with_suffix(".lock"), wait=True):
        if aot_cache.whole(place):
            return
        half = place.with_suffix(f".{os.getpid()}.half")
        broker = Broker(jvm=(f"-XX:AOTCacheOutput={half}",))
        broker.child.stop_seconds = TRAINING_STOP_SECONDS
        try:
            with broker:
                pass
            if half.exists():
                aot_cache.checksum_file(place).write_text(aot_cache.sha256(half))
                half.replace(place)
        finally:
            half.unlink(missing_ok=True)


if __name__ == "__main__":
    os.nice(10)
    make()
    sys.exit(0)
