"""Job-runner: reads its settings, builds its parts, runs until it is told to stop."""

from courant import crypto, logs, serve, settings
from courant.kafka.producer import KafkaProducer
from courant.postgres import database
from job_runner.dispatch import Dispatcher
from job_runner.dispatch_store import PostgresRounds
from job_runner.handle import stages
from job_runner.settings import JobRunnerSettings
from job_runner.store import PostgresStore

CONNECTIONS = 4  # two stages, the rounds and the probe


def main() -> int:
    wanted = settings.load(JobRunnerSettings, "job-runner")
    logs.start("job-runner", wanted.courant_log_format, wanted.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    url, cluster = wanted.database_url.get_secret_value(), wanted.cluster
    engine = database.engine(url, "job-runner", CONNECTIONS)
    ring = crypto.key_ring(wanted.courant_seal_keys.get_secret_value())
    serve.health(
        wanted.job_runner_health_host,
        wanted.job_runner_health_port,
        lambda: database.why_unreachable(engine),
    )
    issuer = Dispatcher(
        PostgresRounds(engine),
        KafkaProducer(cluster, "job-runner.rounds"),
        wanted.job_runner_lag_seconds,
    )
    threads = {
        **serve.run_stages(stages(PostgresStore(engine), ring), cluster, stop),
        "rounds": serve.start("rounds", lambda: issuer.run(stop.wait), stop),
    }
    return serve.run(threads, stop)


if __name__ == "__main__":
    serve.leave(main())
