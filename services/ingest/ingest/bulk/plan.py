"""What a job needs besides its rows: who may make it, what became of it before, its seal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from uuid import UUID

from courant import ids
from courant.contracts import KeyType, Seal
from courant.crypto import keyed_hash
from courant.recipients import Email, Phone
from courant.topics import Channel
from ingest.accept import rules
from ingest.accept.content import CompiledTemplate
from ingest.accept.handle import AcceptParts, normalised
from ingest.accept.idempotency import REPLAYED, REUSED, IdempotencyKey
from ingest.bulk import columns
from ingest.bulk.chunk_writer import Written
from ingest.bulk.columns import Sheet
from ingest.bulk.forms import Form
from ingest.bulk.rows import RowCounts, RowReader
from ingest.callers.auth import Caller
from ingest.callers.safelist import Safelists
from ingest.http.answers import Answer, json_answer
from ingest.jobs.rows import FirstJob, Job
from ingest.jobs.views import JobView


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that lacks its rows."""

    caller: Caller
    form: Form
    compiled: CompiledTemplate
    sender_id: UUID | None
    now: datetime

    @property
    def channel(self) -> Channel:
        return self.compiled.template.channel

    def limited(self, tally: RowCounts) -> bool:
        """Tell whether the rows count for the day and the year."""
        unreal = self.channel is Channel.SMS and tally.rows == tally.simulated
        return self.caller.key.type is not KeyType.TEST and not unreal


class Planner:
    """Plans jobs, with the parts it is given."""

    def __init__(self, parts: AcceptParts, job_view: JobView) -> None:
        self._parts = parts
        self._job_view = job_view
        self._guests = Safelists(parts.key_ring)

    def plan(self, caller: Caller, form: Form, now: datetime) -> Plan | Answer:
        """Plan a job, or say why there can be none; this counts as a request."""
        parts, service = self._parts, caller.service
        template = parts.directory.template(form.template_id)
        if template is None:
            return rules.NO_TEMPLATE
        channel = template.channel
        refusal = (
            rules.check_template(template, service, channel)
            or rules.check_channel(service, channel)
            or parts.limits.check_rate(service, caller.key.type, monotonic())
        )
        if refusal:
            return refusal
        sender_id = form.sender_id
        if sender_id:
            found = parts.directory.senders.get(service.id, {}).get(sender_id)
            if refusal := rules.check_sender(found, sender_id, service, channel):
                return refusal
        elif channel is Channel.SMS:
            default = parts.directory.default_sender(service.id, channel)
            sender_id = default.id if default else None
        return Plan(caller, form, parts.templates.compiled(template), sender_id, now)

    def intake(self, plan: Plan, rows_max: int) -> RowReader:
        """Give what takes the rows."""
        left = self._parts.limits.remaining(plan.caller.service, plan.channel, plan.now)
        return RowReader(RowCounts(rows_max, room=min(left)), self._sheets(plan))

    def _sheets(self, plan: Plan) -> Callable[[Sequence[str]], Sheet | Answer]:
        """Give what makes a sheet of a header."""
        service, key_type, hash_key = (
            plan.caller.service,
            plan.caller.key.type,
            self._parts.hash_key,
        )
        closed = key_type is KeyType.TEAM or (service.restricted and key_type is KeyType.NORMAL)
        channel = plan.channel.encode()

        def hashed(recipient: Email | Phone) -> bytes:
            return keyed_hash(hash_key, channel, normalised(recipient).encode())

        def sheet_for(header: Sequence[str]) -> Sheet | Answer:
            layout = columns.layout(header, plan.compiled)
            if isinstance(layout, Answer):
                return layout
            return Sheet(
                layout,
                plan.compiled,
                prefix=service.name if service.prefix_sms else None,
                abroad=rules.INTERNATIONAL in service.permissions,
                guests=self._guests.of(service) if closed else None,
                simulated=self._parts.simulated,
                hashed=hashed,
            )

        return sheet_for

    def refusal(self, plan: Plan, tally: RowCounts) -> Answer | None:
        """Judge all rows together."""
        caller, limits = plan.caller, self._parts.limits
        left = limits.remaining(caller.service, plan.channel, plan.now)
        return tally.refusal(caller.service, plan.channel, caller.key.type, left)

    def count(self, plan: Plan, tally: RowCounts) -> Answer | None:
        """Count the rows as accepted, or refuse them where others took their room meanwhile."""
        if not plan.limited(tally):
            return None
        limits, service = self._parts.limits, plan.caller.service
        if refusal := limits.check_volume(service, plan.channel, plan.now, tally.rows):
            return refusal
        limits.count_accepted(service, plan.channel, plan.now, tally.rows)
        return None

    def again(self, caller: Caller, first: FirstJob, body_hash: bytes) -> Answer:
        """Repeat the first answer for the same body, or return the refusal of another body."""
        # Without the name of its file the first answer cannot be repeated.
        if first.body_hash != body_hash or self._job_view.name(first.job) is None:
            return REUSED
        return replace(self.accepted(caller, first.job), headers=REPLAYED)

    def seal(
        self,
        plan: Plan,
        written: Written,
        rows: int,
        key: IdempotencyKey | None,
        body_hash: bytes | None,
    ) -> Seal:
        """Write what makes a job of an upload's chunks; the body's hash stands with a key."""
        service_id = plan.caller.service.id
        if key:
            id = ids.derived_in(plan.now, b"job", service_id.bytes, key.text)
        else:
            id = ids.new(plan.now)
        template = plan.compiled.template
        return Seal(
            job_id=id,
            upload_id=written.upload_id,
            chunks=written.chunks,
            rows=rows,
            digest=written.digest,
            service_id=service_id,
            key_id=plan.caller.key.id,
            key_type=plan.caller.key.type,
            template_id=template.id,
            template_version=template.version,
            channel=plan.channel,
            sender_id=plan.sender_id,
            name=self._parts.key_ring.encrypt(plan.form.name.encode(), owner=id.bytes),
            accepted_at=plan.now,
            scheduled_for=plan.form.scheduled_for,
            idempotency_key=key.hash if key else None,
            body_hash=body_hash,
        )

    def accepted(self, caller: Caller, job: Seal | Job) -> Answer:
        """Return the 201 for a job."""
        return json_answer({"data": self._job_view.accepted(job, caller.service)}, 201)
