"""A provider's route: all that decides whether it is called, and what its answers mean."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from deliverer import rules
from deliverer.breaker import Breaker
from deliverer.calls import (
    Accepted,
    AccountTrouble,
    Call,
    CallEntry,
    Deferred,
    FinalOutcome,
    ProviderOutcome,
    Refusal,
    RetryAlone,
    SenderTrouble,
    Throttled,
    Unknown,
)
from deliverer.evidence import Evidence
from deliverer.pool import Provider
from deliverer.rate import RateLimiter
from deliverer.senders import Senders

Judged = FinalOutcome | Throttled | RetryAlone


@dataclass(frozen=True, slots=True)
class Route:
    """A provider with its rate limit, its circuit breaker, its memory and the size of its calls."""

    provider: Provider
    limiter: RateLimiter
    breaker: Breaker
    entries_max: int = rules.ENTRIES_MAX  # of one call
    evidence: Evidence = field(default_factory=Evidence)
    senders: Senders = field(default_factory=Senders)

    def judge(self, call: Call, outcomes: Sequence[ProviderOutcome], began: int) -> list[Judged]:
        """Learn from a call's outcomes; return them with the blame assigned, in the same order.

        `began` is the evidence's moment at which the call began.
        """
        self._learn(call, outcomes, began)
        beside = any(isinstance(outcome, Accepted) for outcome in outcomes)
        judged = [
            self._judged(entry, outcome, beside)
            for entry, outcome in zip(call.entries, outcomes, strict=True)
        ]
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal | SenderTrouble)]
        if refused:
            is_senders = isinstance(refused[0], SenderTrouble)
            if self.evidence.is_against_all(is_senders):
                self.breaker.open(f"messages are refused one after the other: {refused[0].reason}")
        return judged

    def _learn(self, call: Call, outcomes: Sequence[ProviderOutcome], began: int) -> None:
        first = call.entries[0]
        unknowns = [outcome for outcome in outcomes if isinstance(outcome, Unknown)]
        accepted = [
            entry.row.id
            for entry, outcome in zip(call.entries, outcomes, strict=True)
            if isinstance(outcome, Accepted)
        ]
        if accepted:
            self.evidence.accept(accepted, first.row.service_id, began)
            self.senders.accept(first.source)
        if troubles := [outcome for outcome in outcomes if isinstance(outcome, AccountTrouble)]:
            self.breaker.open(troubles[0].reason)
        elif len(unknowns) == len(outcomes):
            self.breaker.record_failure(unknowns[0].reason)
        elif all(isinstance(each, Refusal | SenderTrouble | RetryAlone) for each in outcomes):
            self.breaker.record_refusal()
        else:
            self.breaker.record_success()
        if any(isinstance(outcome, Throttled) for outcome in outcomes):
            self.limiter.record_throttle()
        elif accepted:
            self.limiter.record_success()
        if refused := [each for each in outcomes if isinstance(each, SenderTrouble)]:
            # Once for a call: all of its messages have this sender.
            self.senders.fail(first.source, first.row.service_id, refused[0].reason)
            self.evidence.refuse_sender(first.row.id, first.row.service_id)

    def _judged(self, entry: CallEntry, outcome: ProviderOutcome, beside: bool) -> Judged:
        """Assign the blame; `beside`: another message of the same call was accepted."""
        match outcome:
            case AccountTrouble(reason):
                return Deferred(reason, retry_after=self.breaker.pause)
            case SenderTrouble(reason):
                wait = self.senders.wait_for(entry.source)
                return Deferred(reason, retry_after=wait[0] if wait else timedelta())
            case Refusal() if beside:
                return outcome.proven
            case Refusal():
                return self._refused(entry.row.id, entry.row.service_id, outcome)
        return outcome

    def _refused(self, id: UUID, service: UUID, refusal: Refusal) -> Deferred | Judged:
        wait = self.evidence.refuse(id, service, refusal.names_recipient)
        if wait is None:
            return refusal.proven
        return Deferred(f"{refusal.reason}, not yet known whose fault", retry_after=wait)
