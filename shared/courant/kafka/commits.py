"""The broker's answers to a consumer's commits, and what an error in one means."""

from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from courant.errors import Fenced, Unavailable

Answer: TypeAlias = tuple[KafkaError | None, list[TopicPartition]]

LOST = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._NO_OFFSET,
}
"""Errors of a commit that mean that another member has the partitions now."""


class CommitAnswers:
    """The answers that have come since the last commit."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []

    def add(self, error: KafkaError | None, answered: list[TopicPartition]) -> None:
        """Keep an answer; the client calls this while it is polled."""
        self._answers.append((error, answered))

    def clear(self) -> None:
        """Forget the answers to earlier commits."""
        self._answers.clear()

    def to(self, offsets: Sequence[TopicPartition]) -> Answer | None:
        """Return the answer to this commit, if it came. A late answer to another is skipped."""
        expected = {(each.topic, each.partition, each.offset) for each in offsets}
        for error, answered in self._answers:
            if {(each.topic, each.partition, each.offset) for each in answered} == expected:
                return error, answered
        return None


def raise_for_commit(error: KafkaError) -> NoReturn:
    """Raise what an error of a commit means: Fenced, Unavailable, or KafkaException if fatal."""
    if error.code() in LOST:
        raise Fenced(error.name())
    if error.fatal():
        raise KafkaException(error)
    raise Unavailable(f"commit: {error.name()}")
