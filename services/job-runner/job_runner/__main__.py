"""Run job-runner: `python -m job_runner`."""

from courant import crypto, logs, serve, settings
from courant.kafka.producer import KafkaProducer
from courant.postgres import database
from job_runner.dispatch import Dispatcher
from job_runner.dispatch_store import PostgresRounds
from job_runner.handle import stages
from job_runner.settings import JobRunnerSettings
from job_runner.store import PostgresStore

CONNECTIONS = 4  # one each for the two stages, the dispatcher's rounds and the probe


def main() -> int:
    loaded = settings.load(JobRunnerSettings, "job-runner")
    logs.start("job-runner", loaded.courant_log_format, loaded.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    url, cluster = loaded.database_url.get_secret_value(), loaded.cluster
    engine = database.engine(url, "job-runner", CONNECTIONS)
    ring = crypto.key_ring(loaded.courant_seal_keys.get_secret_value())
    serve.health(
        loaded.job_runner_health_host,
        loaded.job_runner_health_port,
        lambda: database.why_unreachable(engine),
    )
    dispatcher = Dispatcher(
        PostgresRounds(engine),
        KafkaProducer(cluster, "job-runner.rounds"),
        loaded.job_runner_lag_seconds,
    )
    serve.LOOPS.append(dispatcher.progress)
    threads = {
        **serve.run_stages(stages(PostgresStore(engine), ring), cluster, stop),
        "rounds": serve.start("rounds", lambda: dispatcher.run(stop.wait), stop),
    }
    return serve.run(threads, stop)


if __name__ == "__main__":
    serve.leave(main())
