"""The budget of bodies: what all requests together may hold of their clients' bytes at once.

Without it, each body is small enough and all of them are not: 60 bodies of 15 MiB took ingest from
104 to 1,063 MiB.
"""

from dataclasses import dataclass

SMALL_BYTES = 64 * 1024
"""A body up to this size is small. Nearly every notification and every receipt is."""
# How many eighths of the budget may be full when a body of this kind asks for more. So large bodies
# leave room for small ones, and strangers, who need no API key, leave room for clients.
LARGE_OF_STRANGER, LARGE_OF_CLIENT, SMALL_OF_STRANGER, SMALL_OF_CLIENT = 2, 6, 7, 8


@dataclass(slots=True)
class BodyBudget:
    """Counts the bytes of bodies that are in memory. The event loop alone uses it."""

    limit_bytes: int
    in_use_bytes: int = 0

    def has_room(self, more_bytes: int, body_bytes: int, stranger: bool) -> bool:
        """Return whether a body of `body_bytes` in all may take `more_bytes` now."""
        if body_bytes <= SMALL_BYTES:
            eighths = SMALL_OF_STRANGER if stranger else SMALL_OF_CLIENT
        else:
            eighths = LARGE_OF_STRANGER if stranger else LARGE_OF_CLIENT
        return self.in_use_bytes + more_bytes <= self.limit_bytes * eighths // 8


@dataclass(slots=True)
class HeldBody:
    """The part of the budget that one request holds. `release` gives it back."""

    budget: BodyBudget
    stranger: bool = False
    size_bytes: int = 0

    def fits(self, body_bytes: int) -> bool:
        """Return whether a body of this size could be taken now. Takes nothing."""
        return self.budget.has_room(body_bytes, body_bytes, self.stranger)

    def take(self, part_bytes: int) -> bool:
        """Take the bytes of a part that has arrived, and return true if there is room for them.

        Only bytes that are here count: a client that announces much and sends nothing takes none.
        """
        if not self.budget.has_room(part_bytes, self.size_bytes + part_bytes, self.stranger):
            return False
        self.size_bytes += part_bytes
        self.budget.in_use_bytes += part_bytes
        return True

    def release(self) -> None:
        """Return all bytes to the budget. A second call does nothing."""
        self.budget.in_use_bytes -= self.size_bytes
        self.size_bytes = 0
