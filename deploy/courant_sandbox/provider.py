"""Handles a call from its bytes to its answer: check, apply faults, book, post receipts."""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import uuid4

import msgspec

from courant_sandbox import metrics
from courant_sandbox.apis import Api
from courant_sandbox.faults import Bucket, Control, Faults
from courant_sandbox.ledger import Ledger
from courant_sandbox.messages import Channel, Draft, Entry, Outcome, Refused, Reply, Result
from courant_sandbox.receipts import ReceiptPoster
from courant_sandbox.recipients import THROTTLES_BEFORE_TAKING, Behaviour, behaviour

THROTTLED_ADDRESSES_MAX = 10_000
THROTTLED = "Maximum sending rate exceeded."
REJECTED = "Address blacklisted: rejected, as the address demands."
BROKEN = "The service has an error, as configured."


class Call(msgspec.Struct):
    """A call that is not answered yet, as GET /calls shows it."""

    api: str
    since: str
    notification_ids: list[str]
    booked: bool = False


class Provider:
    """Holds the calls in progress and the rates. All of it runs in one thread."""

    def __init__(
        self,
        control: Control,
        ledger: Ledger,
        receipts: ReceiptPoster | None,
        now: Callable[[], datetime],
    ) -> None:
        self._control = control
        self._ledger = ledger
        self._receipts = receipts
        self._now = now
        self._calls: dict[int, Call] = {}
        self._buckets = {(channel, of): Bucket() for channel in Channel for of in ("call", "to")}
        self._throttled: OrderedDict[str, int] = OrderedDict()
        self.booked = dict.fromkeys(Channel, 0)

    def calls(self) -> list[Call]:
        return list(self._calls.values())

    async def answer(self, api: Api, body: bytes, gone: Callable[[], Awaitable[None]]) -> Reply:
        """Answer a call. A call that hangs stays in progress until `gone` returns."""
        try:
            drafts = api.read(body)
            behaviours = [behaviour(api.channel, draft.to) for draft in drafts]
            with self._progress(api, drafts) as call:
                reply = await self._handle(api, drafts, behaviours, call)
                if reply.form == "hang":
                    await gone()
        except Refused as refusal:
            metrics.calls.labels(api.name, "refused" if refusal.http < 500 else "broken").inc()
            return api.refused(refusal)
        metrics.calls.labels(api.name, "accepted" if reply.form == "whole" else "lost").inc()
        return reply

    @contextmanager
    def _progress(self, api: Api, drafts: Sequence[Draft]) -> Iterator[Call]:
        ids = [draft.tags["courant_id"] for draft in drafts if "courant_id" in draft.tags]
        call = Call(api.name, self._at(), ids)
        self._calls[id(call)] = call
        metrics.calls_in_progress.inc()
        try:
            yield call
        finally:
            del self._calls[id(call)]
            metrics.calls_in_progress.dec()

    async def _handle(
        self, api: Api, drafts: Sequence[Draft], behaviours: Sequence[Behaviour], call: Call
    ) -> Reply:
        faults = self._control.of(api.channel)
        wait = faults.latency_seconds + max((each.wait_seconds for each in behaviours), default=0)
        if wait:
            await asyncio.sleep(wait)
        await self._control.release(api.channel, "before-booking")
        # Read the faults again after the wait, because a hold is often released by a change of
        # faults.
        faults = self._control.of(api.channel)
        self._admit(api, drafts, behaviours, faults)
        results = self._book(api, drafts, behaviours, faults)
        call.booked = True
        await self._control.release(api.channel, "after-booking")
        if _strikes(faults.error_after_booking) or any(b.after == "error" for b in behaviours):
            raise _broken(api)
        reply = api.accepted(results)
        form = next((b.after for b in behaviours if b.after in ("hang", "half-body")), "whole")
        if faults.lose_answer is not None and _strikes(faults.lose_answer.share):
            form = faults.lose_answer.form
        return reply if form == "whole" else msgspec.structs.replace(reply, form=form)

    def _admit(
        self,
        api: Api,
        drafts: Sequence[Draft],
        behaviours: Sequence[Behaviour],
        faults: Faults,
    ) -> None:
        """Raise Refused if a configured error, the rate or a recipient fails the whole call."""
        error = faults.error
        if error is not None and error.source in _source(drafts) and _strikes(error.share):
            raise Refused(
                error.code, error.message, error.status, error.reason, error.resource_type
            )
        if any(each.before == "error" for each in behaviours):
            raise _broken(api)
        now = time.monotonic()
        calls, to = self._buckets[api.channel, "call"], self._buckets[api.channel, "to"]
        if (
            _strikes(faults.throttle_share)
            or (faults.calls_per_second and not calls.take(1, faults.calls_per_second, now))
            or (faults.quota_per_second and not to.take(len(drafts), faults.quota_per_second, now))
        ):
            raise _throttled(api)

    def _book(
        self,
        api: Api,
        drafts: Sequence[Draft],
        behaviours: Sequence[Behaviour],
        faults: Faults,
    ) -> list[Result]:
        at = self._at()
        results, messages = [], []
        for draft, own in zip(drafts, behaviours, strict=True):
            refusal = self._refusal(api, draft, own, faults)
            if refusal is not None:
                results.append(refusal)
                continue
            entry = _entry(api, draft, own, at)
            messages.append((entry, draft.parts))
            results.append(Result(entry.message_id))
        if messages:
            ends = self._ledger.append(messages)
            self.booked[api.channel] += len(messages)
            metrics.booked.labels(api.channel).inc(len(messages))
            if self._receipts is not None:
                self._receipts.offer([entry for entry, _ in messages], ends)
        return results

    def _refusal(self, api: Api, draft: Draft, own: Behaviour, faults: Faults) -> Result | None:
        """Return the refusal of a bulk entry, None for none; raise Refused for a single message."""
        status = faults.bulk_status
        if api.entries_have_status and status is not None and _strikes(status.share):
            return Result(status=status.status, error="set by the sandbox's control")
        if own.before == "throttle" and self._throttles(draft.to):
            if not api.entries_have_status:
                raise _throttled(api)
            return Result(status="ACCOUNT_THROTTLED", error=THROTTLED)
        if own.before == "reject":
            if not api.entries_have_status:
                code, http = api.rejected
                raise Refused(code, REJECTED, http, "OTHER")
            return Result(status="MESSAGE_REJECTED", error=REJECTED)
        if own.before == "opted-out" and api.refuses_opted_out:
            raise Refused(
                "ConflictException",
                "The destination phone number is opted out.",
                reason="DESTINATION_PHONE_NUMBER_OPTED_OUT",
            )
        return None

    def _throttles(self, to: str) -> bool:
        """Count an address's tries: two are throttled, the third is taken, and so on."""
        tries = self._throttled.pop(to, 0)
        if tries >= THROTTLES_BEFORE_TAKING:
            return False
        self._throttled[to] = tries + 1
        if len(self._throttled) > THROTTLED_ADDRESSES_MAX:
            self._throttled.popitem(last=False)
        return True

    def _at(self) -> str:
        return self._now().isoformat(timespec="microseconds").replace("+00:00", "Z")


def _entry(api: Api, draft: Draft, own: Behaviour, at: str) -> Entry:
    attempt = draft.tags.get("courant_attempt", "")
    message_id = str(uuid4())
    return Entry(
        at=at,
        channel=api.channel,
        to=draft.to,
        notification_id=draft.tags.get("courant_id"),
        attempt=int(attempt) if attempt.isdecimal() else None,
        message_id=message_id if api.channel is Channel.SMS else f"0100{message_id}-000000",
        outcome=Outcome.RENDERING_FAILED if draft.fault else own.outcome,
        body_hash=draft.parts.digest(),
        api=api.name,
        source=draft.source,
        tags=draft.tags,
    )


def _source(drafts: Sequence[Draft]) -> str:
    """Return the From address or the origin of a call; all of its messages have the same."""
    return drafts[0].source if drafts else ""


def _strikes(share: float) -> bool:
    return share > 0 and random.random() < share  # noqa: S311 (no secret)


def _throttled(api: Api) -> Refused:
    code, http = api.throttled
    return Refused(code, THROTTLED, http)


def _broken(api: Api) -> Refused:
    code, http = api.broken
    return Refused(code, BROKEN, http)
