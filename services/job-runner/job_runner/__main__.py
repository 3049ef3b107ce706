"""Job-runner: reads its settings, builds its parts, runs until it is told to stop."""

import sys

from courant import logs, serve, settings
from job_runner.handle import stages
from job_runner.settings import JobRunnerSettings


def main() -> int:
    chosen = settings.load(JobRunnerSettings, "job-runner")
    logs.start("job-runner", chosen.courant_log_format, chosen.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    serve.health(chosen.job_runner_health_host, chosen.job_runner_health_port, lambda: None)
    threads = serve.run_stages(stages(), chosen.kafka_bootstrap_servers, stop)
    return serve.run(threads, stop)


if __name__ == "__main__":
    sys.exit(main())
