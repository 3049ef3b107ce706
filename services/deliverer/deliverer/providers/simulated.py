"""What test keys send by: it answers at once, sends nothing, and tells the receipt with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from courant.contracts import ReceiptKind
from deliverer.calls import Accepted, Call, CallEntry, ProviderOutcome

# By the recipient, as the API promises; all others are delivered.
RECEIPTS: dict[str, tuple[ReceiptKind, str | None]] = {
    "perm-fail@simulator.notify": (ReceiptKind.BOUNCED, "hard-bounce/general"),
    "temp-fail@simulator.notify": (ReceiptKind.DELAYED, "soft-bounce/general"),
    "+15149301632": (ReceiptKind.BOUNCED, "simulated"),
    "+15149301633": (ReceiptKind.DELAYED, "simulated"),
}


@dataclass(frozen=True, slots=True)
class Simulated:
    """Sends nothing."""

    name: str = "simulated"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Accept all, each with its receipt."""
        return [self._accept(each) for each in call.entries]

    def _accept(self, entry: CallEntry) -> ProviderOutcome:
        receipt, reason = RECEIPTS.get(entry.to, (ReceiptKind.DELIVERED, None))
        return Accepted(
            f"simulated-{entry.row.id}-{entry.row.attempt}", receipt=receipt, reason=reason
        )
