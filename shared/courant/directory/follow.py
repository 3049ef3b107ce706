"""Keeps a directory in memory up to date with its topic."""

from collections.abc import Callable

from courant.directory.entries import Directory, apply
from courant.kafka.clients import Cluster
from courant.kafka.reader import TopicReader
from courant.topics import DIRECTORY

READ_SECONDS = 0.25


def follow(directory: Directory, cluster: Cluster, name: str, stopping: Callable[[], bool]) -> None:
    """Apply the topic's records to the directory until the stop. Run it in its own thread."""
    reader = TopicReader(cluster, name, DIRECTORY.name)
    try:
        while not stopping():
            for _, value in reader.read(READ_SECONDS):
                apply(directory, value)
            if reader.at_end:
                directory.is_read = True
    finally:
        reader.close()
