"""Keeps a directory in memory up to date with its topic."""

from collections.abc import Callable

from courant import clock
from courant.directory.entries import Directory, apply
from courant.kafka.clients import Cluster
from courant.kafka.reader import TopicReader
from courant.topics import DIRECTORY

READ_SECONDS = 0.25


def follow(directory: Directory, cluster: Cluster, name: str, stopping: Callable[[], bool]) -> None:
    """Apply the topic's records to the directory until the stop. Run it in its own thread."""
    reader = TopicReader(cluster, name, [(DIRECTORY.name, 0)])
    try:
        while not stopping():
            size = directory.size
            for message in reader.read(READ_SECONDS):
                apply(directory, message.value() or b"")
            if directory.size > size:
                directory.grown_at = clock.now()
            if not reader.unread:
                directory.is_read = True
    finally:
        reader.close()
