"""What a job needs besides its rows: who may make it, what became of it before, its seal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from uuid import UUID

from courant import ids
from courant.contracts import KeyType, Seal
from courant.crypto import Undecryptable, keyed_hash
from courant.directory.entries import Service
from courant.recipients import Email, Phone
from courant.topics import Channel
from ingest.accept import rules
from ingest.accept.content import CompiledTemplate
from ingest.accept.handle import AcceptParts, normalised
from ingest.accept.idempotency import REPLAYED, REUSED, FirstJob, IdempotencyKey
from ingest.bulk import columns
from ingest.bulk.chunk_writer import Written
from ingest.bulk.columns import Sheet
from ingest.bulk.forms import Form
from ingest.bulk.rows import RowCounts, RowReader
from ingest.callers.auth import Caller
from ingest.callers.safelist import Safelists
from ingest.http.answers import Answer, json_answer
from ingest.jobs.rules import shown_job


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

    def __init__(self, parts: AcceptParts) -> None:
        self._parts = parts
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

    async def first(self, caller: Caller, key_hash: bytes) -> FirstJob | None:
        """Give what came first under a key, if anybody knows."""
        return await self._parts.idempotency.first_job(caller.service.id, key_hash)

    def again(self, caller: Caller, first: FirstJob, body_hash: bytes) -> Answer:
        """Give the first answer once more to the same body, or refuse another one."""
        if first.body_hash != body_hash:
            return REUSED
        try:
            name = self._parts.key_ring.decrypt(first.name, owner=first.id.bytes).decode()
        except Undecryptable:
            return REUSED
        return replace(self._told(caller.service, first, first.id, name), headers=REPLAYED)

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

    def accepted(self, plan: Plan, seal: Seal) -> Answer:
        """Say that it is a job."""
        return self._told(plan.caller.service, seal, seal.job_id, plan.form.name)

    def _told(self, service: Service, job: Seal | FirstJob, id: UUID, name: str) -> Answer:
        key = self._parts.directory.keys[service.id].get(job.key_id)
        shown = shown_job(
            id=id,
            name=name,
            rows=job.rows,
            standing="scheduled" if job.scheduled_for else "pending",
            template_id=job.template_id,
            template_version=job.template_version,
            channel=job.channel,
            service_id=service.id,
            service_name=service.name,
            key_id=job.key_id,
            key_name=key.name if key else None,
            key_type=job.key_type,
            sender_id=job.sender_id,
            created_at=job.accepted_at,
            scheduled_for=job.scheduled_for,
        )
        return json_answer({"data": shown}, 201)
