"""What job-runner takes from the environment."""

from typing import Annotated

from pydantic import Field

from courant.settings import DatabaseUrl, HealthHost, Port, SealKeys, Settings


class JobRunnerSettings(Settings):
    """Job-runner's settings."""

    courant_seal_keys: SealKeys
    database_url: DatabaseUrl
    job_runner_health_host: HealthHost = "127.0.0.1"
    job_runner_health_port: Port = 8430
    job_runner_lag_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="seconds that the bulk lane may lag, then jobs wait; 0: they never do",
        ),
    ] = 5.0
