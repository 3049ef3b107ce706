"""Job-runner's place in the stack."""

from courant import consume
from courant.records import Outgoing
from courant.testing.kafka import FakeConsumer, FakeProducer
from courant.testing.world import World
from courant.topics import JOBS, dead
from job_runner.handle import stages


def test_an_upload_is_put_aside_whole_and_says_why() -> None:
    world = World()
    [stage] = stages()
    world.kafka.append(Outgoing(JOBS.name, bytes(16), b"an upload"))
    consumer = FakeConsumer(world.kafka, stage.group, stage.topics)
    consume.step(consumer, FakeProducer(world.kafka), stage, comparing=False)
    letters = [
        each for at in world.kafka.partitions(dead(JOBS.name)) for each in world.kafka.log[at]
    ]
    assert [each.value for each in letters] == [b"an upload"]
    assert dict(letters[0].headers)["courant.reason"] == b"jobs: bulk is not served yet"
    assert sum(world.kafka.committed.values()) == 1
    assert stage.group == "courant.job-runner.jobs"
