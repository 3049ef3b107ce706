"""What test keys send by: it answers at once, sends nothing, and tells the receipt with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from courant.contracts import Says
from deliverer.calls import Accepted, Call, Entry, Said

# By the recipient, as the API promises; all others are delivered.
ENDS: dict[str, tuple[Says, str | None]] = {
    "perm-fail@simulator.notify": (Says.BOUNCED, "hard-bounce/general"),
    "temp-fail@simulator.notify": (Says.DELAYED, "soft-bounce/general"),
    "+15149301632": (Says.BOUNCED, "simulated"),
    "+15149301633": (Says.DELAYED, "simulated"),
}


@dataclass(frozen=True, slots=True)
class Simulated:
    """Sends nothing."""

    name: str = "simulated"

    def send(self, call: Call) -> Sequence[Said]:
        """Accept all, each with its receipt."""
        return [self._accept(each) for each in call.entries]

    def _accept(self, entry: Entry) -> Said:
        says, reason = ENDS.get(entry.to, (Says.DELIVERED, None))
        return Accepted(f"simulated-{entry.row.id}-{entry.row.attempt}", says=says, reason=reason)
