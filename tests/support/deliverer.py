"""One lane of the deliverer in its consumer loop, with fake Kafka, Postgres and provider."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from courant import consume
from courant.contracts import KeyType, Outcome, Outcomes, Persisted, Started, Stat, decode_delivery
from courant.lifecycle import State
from courant.records import Outgoing
from courant.testing.builders import NOW, PERSISTED, id_of, notification, number_of
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.tables import FakeRow
from courant.testing.world import World
from courant.topics import Channel, Lane
from deliverer import content
from deliverer.breaker import Breaker
from deliverer.calls import (
    Accepted,
    Call,
    CallEntry,
    ClaimedRow,
    Deferred,
    ProviderOutcome,
    Rejected,
    RenderedEmail,
)
from deliverer.evidence import Evidence
from deliverer.handle import LaneParts, stages
from deliverer.pool import Limits
from deliverer.providers.simulated import Simulated
from deliverer.rate import RateLimiter
from deliverer.route import Route
from deliverer.senders import Senders

UNSENDABLE, SWITCHED_OFF, TEST_KEY, EMPTIED = 900, 901, 902, 903
UNSENDABLE_REASONS = {
    UNSENDABLE: "sealed: does not open",
    SWITCHED_OFF: content.INACTIVE,
    EMPTIED: content.EMPTIED,
}
OTHER_SERVICE = range(700, 800)
"""Numbers of the rows of a second service, which has a sender of its own."""
WARM_UP = 1000
SECOND = timedelta(seconds=1)


class ClaimStore:
    """Claims on the fake store; adds the columns that the deliverer reads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.claimed: list[int] = []
        self.tries: dict[int, int] = {}  # of rows that had some before

    def claim(self, ids: Sequence[UUID], channel: Channel, lane: Lane) -> list[ClaimedRow]:
        assert (channel, lane) == (Channel.EMAIL, Lane.NORMAL)
        return [self._row(row.notification.id, row.attempt) for row in self.world.store.claim(ids)]

    def _row(self, id: UUID, attempt: int) -> ClaimedRow:
        self.claimed.append(number_of(id))
        kind = KeyType.TEST if number_of(id) == TEST_KEY else KeyType.NORMAL
        service = UUID(int=8 if number_of(id) in OTHER_SERVICE else 7)
        tries = self.tries.get(number_of(id), 0)
        return ClaimedRow(id, attempt, tries, service, kind, UUID(int=9), 1, None, b"", NOW)


class FakeRenderer:
    def render(self, row: ClaimedRow, _: Channel) -> CallEntry | Deferred | Rejected:
        number = number_of(row.id)
        if number in UNSENDABLE_REASONS:
            return Rejected(UNSENDABLE_REASONS[number], Outcome.UNSENDABLE)
        mail = RenderedEmail("subject", "text", "html", "{}")
        source = "Them <them@example.ca>" if number in OTHER_SERVICE else "us@example.ca"
        return CallEntry(row, source, None, f"{number}@example.org", mail, 1000)


class FakeProvider:
    """Accepts every message without a scripted outcome; fails on a call without its `started`."""

    name = "fake"

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[list[int]] = []
        self.script: dict[int, list[ProviderOutcome]] = {}
        self.meanwhile: Callable[[Call], None] = lambda _: None

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        records = delivery_records(self.world)
        announced = {record.call for record in records if isinstance(record, Started)}
        assert call.id in announced, (
            "the call reached the provider before its `started` was durable"
        )
        numbers = [number_of(entry.row.id) for entry in call.entries]
        self.calls.append(numbers)
        self.meanwhile(call)
        return [self._next_outcome(number) for number in numbers]

    def _next_outcome(self, number: int) -> ProviderOutcome:
        scripted = self.script.get(number, [])
        if not scripted:
            return Accepted(f"m-{number}")
        return scripted.pop(0) if len(scripted) > 1 else scripted[0]


def delivery_records(world: World) -> list[object]:
    """Return the durable records of `delivery`."""
    return [
        decode_delivery(record.value)
        for partition, log in list(world.kafka.log.items())
        for record in list(log)
        if partition.topic == "delivery"
    ]


class StatProducer(FakeProducer):
    """Keeps the stats out of the fake Kafka, whose journal reads every key as an id."""

    def __init__(self, world: World) -> None:
        super().__init__(world.kafka)
        self.stats: list[Stat] = []

    def produce(self, outgoing: Outgoing) -> None:
        if outgoing.topic == "stats":
            self.stats.append(Stat.decode(outgoing.value))
        else:
            super().produce(outgoing)


class DelivererLane:
    """One lane of the deliverer with its fakes; a lane `beside` another shares its world."""

    def __init__(
        self,
        lease: timedelta = 20 * SECOND,
        threads: int = 4,
        beside: "DelivererLane | None" = None,
    ) -> None:
        self.world: World = beside.world if beside else World()
        self.provider: FakeProvider = beside.provider if beside else FakeProvider(self.world)
        self.store = ClaimStore(self.world)
        self.now = 0.0
        self.breaker = Breaker("fake", now=lambda: self.now)
        self.stop = False
        self.ready: str | None = None
        simulated = Route(Simulated(), RateLimiter(1e6), Breaker("simulated"))
        route = Route(
            self.provider,
            RateLimiter(1e6),
            self.breaker,
            evidence=Evidence(now=lambda: self.now),
            senders=Senders("fake", now=lambda: self.now),
        )
        parts = LaneParts(
            self.store,
            FakeRenderer(),
            {Channel.EMAIL: route},
            simulated,
            Limits(lease, timedelta(milliseconds=50), threads),
            ready=lambda: self.ready,
            stopping=lambda: self.stop,
        )
        [self.stage] = [stage for stage in stages(parts) if stage.topics == (PERSISTED,)]
        self.consumer = FakeConsumer(self.world.kafka, self.stage.group, self.stage.topics)
        self.producer = StatProducer(self.world)

    def order(self, *numbers: int) -> None:
        for number in numbers:
            row = FakeRow(notification(number))
            self.world.store.tables.rows.setdefault(id_of(number), row)
            order = Persisted(id=id_of(number)).encode()
            self.world.kafka.append(Outgoing(PERSISTED, id_of(number).bytes, order))

    def order_again(self, *numbers: int) -> None:
        """Order rows whose attempt was deferred, as the saver and recovery do after a while."""
        for number in numbers:
            rows = self.world.store.tables.rows
            rows[id_of(number)] = replace(rows[id_of(number)], state=State.CREATED)
        self.order(*numbers)

    def warm_up(self) -> None:
        """Send 50 rows, so that the lane has measured its rate and claims a whole batch next."""
        self.order(*range(WARM_UP, WARM_UP + 50))
        self.step()
        self.provider.calls.clear()
        self.store.claimed.clear()

    def step(self) -> None:
        consume.step(self.consumer, self.producer, self.stage, comparing=False)

    def outcomes(self) -> dict[int, list[str]]:
        """Return the reported outcomes of each number, in the order of its attempts."""
        answers = [
            answer
            for record in delivery_records(self.world)
            for answer in (record.answers if isinstance(record, Outcomes) else ())
        ]
        reported: dict[int, list[str]] = {}
        for answer in sorted(answers, key=lambda each: each.attempt):
            reported.setdefault(number_of(answer.id), []).append(answer.outcome)
        return {number: outcomes for number, outcomes in reported.items() if number < WARM_UP}

    def records(self, topic: str) -> list[bytes]:
        logs = self.world.kafka.log.items()
        return [
            record.value for partition, log in logs if partition.topic == topic for record in log
        ]
