"""Keeping the directory in memory as its topic is."""

import time
from collections.abc import Callable

from courant import metrics
from courant.directory import Directory, take
from courant.kafka import TopicReader
from courant.topics import DIRECTORY

READ_SECONDS = 0.25


def follow(directory: Directory, bootstrap: str, name: str, stopping: Callable[[], bool]) -> None:
    """Keep the directory as the topic is, until the stop. Runs in a thread of its own."""
    reader = TopicReader(bootstrap, name, DIRECTORY.name)
    try:
        while not stopping():
            reader.at_end = False
            for _, value in reader.read(READ_SECONDS):
                take(directory, value)
            if reader.at_end or directory.read_at is not None:
                # At its end, or quiet since: an end is told once, not at every look.
                directory.read_at = time.monotonic()
                metrics.DIRECTORY_AGE.set(0)
    finally:
        reader.close()
