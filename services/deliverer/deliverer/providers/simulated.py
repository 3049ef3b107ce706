"""The provider for test keys: it sends nothing and returns the receipt with its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from courant.contracts import ReceiptKind
from deliverer.calls import Accepted, Call, CallEntry, ProviderOutcome

# The receipt by recipient, as the API promises; every other recipient is delivered.
RECEIPTS: dict[str, tuple[ReceiptKind, str | None]] = {
    "perm-fail@simulator.notify": (ReceiptKind.BOUNCED, "hard-bounce/general"),
    "temp-fail@simulator.notify": (ReceiptKind.DELAYED, "soft-bounce/general"),
    "+15149301632": (ReceiptKind.BOUNCED, "simulated"),
    "+15149301633": (ReceiptKind.DELAYED, "simulated"),
}


@dataclass(frozen=True, slots=True)
class Simulated:
    """A provider that sends nothing."""

    name: str = "simulated"

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        """Accept every entry, each with its receipt."""
        return [self._accept(entry) for entry in call.entries]

    def _accept(self, entry: CallEntry) -> ProviderOutcome:
        receipt, reason = RECEIPTS.get(entry.to, (ReceiptKind.DELIVERED, None))
        return Accepted(
            f"simulated-{entry.row.id}-{entry.row.attempt}", receipt=receipt, reason=reason
        )
