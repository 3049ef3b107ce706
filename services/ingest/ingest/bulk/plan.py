"""Plans a job apart from its rows: its checks, its limits, its seal and its answer."""

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
from ingest.bulk.chunk_writer import WrittenChunks
from ingest.bulk.columns import RowParser
from ingest.bulk.forms import JobForm
from ingest.bulk.rows import RowCounts, RowReader
from ingest.callers.auth import Caller
from ingest.callers.safelist import Safelists
from ingest.http.answers import Answer, json_answer
from ingest.jobs.rows import FirstJob, Job
from ingest.jobs.views import JobView


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that has passed every check that does not need its rows."""

    caller: Caller
    form: JobForm
    compiled: CompiledTemplate
    sender_id: UUID | None
    now: datetime

    @property
    def channel(self) -> Channel:
        return self.compiled.template.channel

    def is_limited(self, counts: RowCounts) -> bool:
        """Return whether the rows count towards the service's day and year."""
        all_simulated = self.channel is Channel.SMS and counts.rows == counts.simulated
        return self.caller.key.type is not KeyType.TEST and not all_simulated


class Planner:
    """Plans jobs with the parts that it shares with single requests."""

    def __init__(self, parts: AcceptParts, job_view: JobView) -> None:
        self._parts = parts
        self._job_view = job_view
        self._safelists = Safelists(parts.key_ring)

    def plan(self, caller: Caller, form: JobForm, now: datetime) -> Plan | Answer:
        """Return the plan of a job, or its refusal. Counts towards the rate limit."""
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
            sender = parts.directory.senders.get(service.id, {}).get(sender_id)
            if refusal := rules.check_sender(sender, sender_id, service, channel):
                return refusal
        elif channel is Channel.SMS:
            default = parts.directory.default_sender(service.id, channel)
            sender_id = default.id if default else None
        return Plan(caller, form, parts.templates.compiled(template), sender_id, now)

    def row_reader(self, plan: Plan, rows_max: int) -> RowReader:
        """Return the reader of the job's rows."""
        remaining = self._parts.limits.remaining(plan.caller.service, plan.channel, plan.now)
        counts = RowCounts(rows_max, remaining=min(remaining))
        return RowReader(counts, self._header_reader(plan))

    def _header_reader(self, plan: Plan) -> Callable[[Sequence[str]], RowParser | Answer]:
        """Return a function that takes a file's header and returns the parser of its rows."""
        service, key_type = plan.caller.service, plan.caller.key.type
        hash_key, channel = self._parts.hash_key, plan.channel.encode()
        restricted = key_type is KeyType.TEAM or (service.restricted and key_type is KeyType.NORMAL)

        def hash_recipient(recipient: Email | Phone) -> bytes:
            return keyed_hash(hash_key, channel, normalised(recipient).encode())

        def read_header(header: Sequence[str]) -> RowParser | Answer:
            layout = columns.read_layout(header, plan.compiled)
            if isinstance(layout, Answer):
                return layout
            return RowParser(
                layout,
                plan.compiled,
                sms_prefix=service.name if service.prefix_sms else None,
                international_allowed=rules.INTERNATIONAL in service.permissions,
                safelist=self._safelists.of(service) if restricted else None,
                simulated=self._parts.simulated,
                hash_recipient=hash_recipient,
            )

        return read_header

    def check_rows(self, plan: Plan, counts: RowCounts) -> Answer | None:
        """Return the refusal of all rows together, or None if they are accepted."""
        caller, limits = plan.caller, self._parts.limits
        remaining = limits.remaining(caller.service, plan.channel, plan.now)
        return counts.check(caller.service, plan.channel, caller.key.type, remaining)

    def count_accepted(self, plan: Plan, counts: RowCounts) -> Answer | None:
        """Count the rows towards the limits, or return a refusal.

        Other requests may have used up the limits since `check_rows`.
        """
        if not plan.is_limited(counts):
            return None
        limits, service = self._parts.limits, plan.caller.service
        if refusal := limits.check_volume(service, plan.channel, plan.now, counts.rows):
            return refusal
        limits.count_accepted(service, plan.channel, plan.now, counts.rows)
        return None

    def replay(self, caller: Caller, first: FirstJob, body_hash: bytes) -> Answer:
        """Repeat the first answer for the same body, or return the refusal of another body."""
        # Without the name of its file the first answer cannot be repeated.
        if first.body_hash != body_hash or self._job_view.name(first.job) is None:
            return REUSED
        return replace(self.answer(caller, first.job), headers=REPLAYED)

    def new_seal(
        self,
        plan: Plan,
        written: WrittenChunks,
        rows: int,
        key: IdempotencyKey | None,
        body_hash: bytes | None,
    ) -> Seal:
        """Return the seal that makes the written chunks a job. `body_hash` comes with a key.

        The key is remembered, so the seal has to be written next.
        """
        if key and body_hash:
            id = self._parts.recent_keys.id_of(key, body_hash, plan.now, ids.derived_in)
            self._parts.recent_keys.remember(key, body_hash, id, plan.now)
        else:
            id = ids.new(plan.now)
        template = plan.compiled.template
        return Seal(
            job_id=id,
            upload_id=written.upload_id,
            chunks=written.count,
            rows=rows,
            digest=written.digest,
            service_id=plan.caller.service.id,
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

    def answer(self, caller: Caller, job: Seal | Job) -> Answer:
        """Return the 201 for a job."""
        return json_answer({"data": self._job_view.accepted(job, caller.service)}, 201)
