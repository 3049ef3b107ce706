"""A deliverer of one lane in the loop that runs it; Kafka, Postgres and the provider are fakes."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from courant import consume
from courant.contracts import KeyType, Outcome, Outcomes, Persisted, Started, Stat, decode_delivery
from courant.records import Outgoing
from courant.testing.builders import NOW, PERSISTED, id_of, notification, number_of
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.store import FakeRow
from courant.testing.world import World
from courant.topics import Channel, Lane
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
from deliverer.content import INACTIVE
from deliverer.flight import Route
from deliverer.handle import LaneParts, stages
from deliverer.pool import Limits
from deliverer.providers.simulated import Simulated
from deliverer.rate import RateLimiter

UNSENDABLE, SWITCHED_OFF, TEST_KEY = 900, 901, 902
WARM = 1000
SECOND = timedelta(seconds=1)


class Claims:
    """The fake store's claim, with what the deliverer reads of a row."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.claimed: list[int] = []

    def claim(self, ids: Sequence[UUID], channel: Channel, lane: Lane) -> list[ClaimedRow]:
        assert (channel, lane) == (Channel.EMAIL, Lane.NORMAL)
        return [self._row(row.notification.id, row.attempt) for row in self.world.store.claim(ids)]

    def _row(self, id: UUID, attempt: int) -> ClaimedRow:
        self.claimed.append(number_of(id))
        kind = KeyType.TEST if number_of(id) == TEST_KEY else KeyType.NORMAL
        return ClaimedRow(id, attempt, 0, UUID(int=7), kind, UUID(int=9), 1, None, b"", NOW)


class Writing:
    def render(self, row: ClaimedRow, _: Channel) -> CallEntry | Deferred | Rejected:
        number = number_of(row.id)
        if number in {UNSENDABLE, SWITCHED_OFF}:
            reason = INACTIVE if number == SWITCHED_OFF else "sealed: does not open"
            return Rejected(reason, Outcome.UNSENDABLE)
        mail = RenderedEmail("subject", "text", "html", "{}")
        return CallEntry(row, "us@example.ca", None, f"{number}@example.org", mail, 1000)


class FakeProvider:
    """Takes what is not scripted otherwise; refuses to hear of what was not announced."""

    name = "fake"

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[list[int]] = []
        self.script: dict[int, list[ProviderOutcome]] = {}
        self.meanwhile: Callable[[Call], None] = lambda _: None

    def send(self, call: Call) -> Sequence[ProviderOutcome]:
        announced = {each.call for each in told(self.world) if isinstance(each, Started)}
        assert call.id in announced, "the provider heard of it before it was durable"
        self.calls.append([number_of(each.row.id) for each in call.entries])
        self.meanwhile(call)
        return [self._said(number_of(each.row.id)) for each in call.entries]

    def _said(self, number: int) -> ProviderOutcome:
        scripted = self.script.get(number, [])
        if not scripted:
            return Accepted(f"m-{number}")
        return scripted.pop(0) if len(scripted) > 1 else scripted[0]


def told(world: World) -> list[object]:
    """Read what is durable in `delivery`."""
    return [
        decode_delivery(record.value)
        for partition, log in list(world.kafka.log.items())
        for record in list(log)
        if partition.topic == "delivery"
    ]


class Producer(FakeProducer):
    """Keeps the figures apart: the fake Kafka's journal reads every key as an id."""

    def __init__(self, world: World) -> None:
        super().__init__(world.kafka)
        self.stats: list[Stat] = []

    def produce(self, outgoing: Outgoing) -> None:
        if outgoing.topic == "stats":
            self.stats.append(Stat.decode(outgoing.value))
        else:
            super().produce(outgoing)


class Stand:
    """A deliverer of one lane, and what is around it."""

    def __init__(
        self, lease: timedelta = 20 * SECOND, threads: int = 4, beside: "Stand | None" = None
    ) -> None:
        self.world: World = beside.world if beside else World()
        self.provider: FakeProvider = beside.provider if beside else FakeProvider(self.world)
        self.claims = Claims(self.world)
        self.now = 0.0
        self.breaker = Breaker("fake", now=lambda: self.now)
        self.stop = False
        self.ready: str | None = None
        simulated = Route(Simulated(), RateLimiter(1e6), Breaker("simulated"))
        route = Route(self.provider, RateLimiter(1e6), self.breaker)
        parts = LaneParts(
            self.claims,
            Writing(),
            {Channel.EMAIL: route},
            simulated,
            Limits(lease, timedelta(milliseconds=50), threads),
            ready=lambda: self.ready,
            stopping=lambda: self.stop,
        )
        [self.stage] = [each for each in stages(parts) if each.topics == (PERSISTED,)]
        self.consumer = FakeConsumer(self.world.kafka, self.stage.group, self.stage.topics)
        self.producer = Producer(self.world)

    def order(self, *numbers: int) -> None:
        for number in numbers:
            row = FakeRow(notification(number))
            self.world.store.tables.rows.setdefault(id_of(number), row)
            order = Persisted(id=id_of(number)).encode()
            self.world.kafka.append(Outgoing(PERSISTED, id_of(number).bytes, order))

    def warm_up(self) -> None:
        """Send a few, after which the lane knows its pace and claims a whole batch."""
        self.order(*range(WARM, WARM + 50))
        self.step()
        self.provider.calls.clear()
        self.claims.claimed.clear()

    def step(self) -> None:
        consume.step(self.consumer, self.producer, self.stage, comparing=False)

    def answers(self) -> dict[int, list[str]]:
        """Give each number's outcomes, in order."""
        found: dict[int, list[str]] = {}
        for each in told(self.world):
            for answer in each.answers if isinstance(each, Outcomes) else ():
                found.setdefault(number_of(answer.id), []).append(answer.outcome)
        return {number: outcomes for number, outcomes in found.items() if number < WARM}

    def records(self, topic: str) -> list[bytes]:
        logs = self.world.kafka.log.items()
        return [record.value for each, log in logs if each.topic == topic for record in log]
