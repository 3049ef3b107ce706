"""Recovery: reads its settings, builds its parts and runs until the stop."""

from datetime import timedelta

from courant import logs, serve, settings
from courant.directory.entries import Directory
from courant.directory.follow import follow
from courant.kafka.producer import KafkaProducer
from recovery import heartbeat
from recovery.audit import store as audit_store
from recovery.audit.log import AuditLog
from recovery.audit.rounds import Audit
from recovery.faust import figures, timers
from recovery.leader import LeaderLock, MarksLock, connect
from recovery.marker import Marker
from recovery.offsets import GroupOffsets
from recovery.rounds import RoundParts, Rounds
from recovery.settings import RecoverySettings

NAME = "recovery"


def main() -> int:
    chosen = settings.load(RecoverySettings, "recovery")
    logs.start("recovery", chosen.courant_log_format, chosen.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    cluster = chosen.cluster
    directory = Directory()
    engine = connect(chosen.database_url.get_secret_value())
    leader_lock, election = LeaderLock(engine), timers.Election()
    own = audit_store.engine(chosen.database_url.get_secret_value())
    audit = Audit(audit_store.AuditStore(own), AuditLog(cluster))
    rounds = Rounds(
        RoundParts(
            leader_lock=leader_lock,
            offsets=GroupOffsets(cluster, NAME),
            producer=KafkaProducer(cluster, NAME),
            directory=directory,
            grace=timedelta(seconds=chosen.courant_grace_seconds),
            stopping=stop,
        )
    )
    serve.LOOPS.append(rounds.progress)
    marker = Marker(
        lock=MarksLock(engine),
        leads=lambda: leader_lock.is_held,
        offsets=GroupOffsets(cluster, f"{NAME}.marks"),
        lease=timedelta(seconds=chosen.courant_lease_seconds),
        margin=timedelta(seconds=chosen.courant_margin_seconds),
    )
    url, key = chosen.public_receipts_url, chosen.courant_hash_key.get_secret_value().encode()
    replication = chosen.courant_replication
    work = {
        "election": lambda: timers.run(cluster, replication, election, stop),
        "sweeps": lambda: rounds.run(election, stop),
        "marks": lambda: marker.run(stop.wait),
        "figures": lambda: figures.run(cluster, replication, stop),
        "directory": lambda: follow(directory, cluster, NAME, stop),
        "heartbeat": lambda: heartbeat.run(url, key, stop.wait),
        "audit": lambda: audit.run(stop, stop.wait),
    }
    threads = {name: serve.start(name, function, stop) for name, function in work.items()}
    serve.health(
        chosen.recovery_health_host,
        chosen.recovery_health_port,
        lambda: None if directory.is_read else "the directory is not read yet",
    )
    return serve.run(threads, stop)


if __name__ == "__main__":
    serve.leave(main())
