"""Job-runner's settings."""

from typing import Annotated

from pydantic import Field

from courant.settings import DatabaseUrl, HealthHost, Port, SealKeys, Settings


class JobRunnerSettings(Settings):
    """Job-runner reads these from the environment."""

    courant_seal_keys: SealKeys
    database_url: DatabaseUrl
    job_runner_health_host: HealthHost = "127.0.0.1"
    job_runner_health_port: Port = 8430
    job_runner_lag_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="seconds that the bulk lane may lag before jobs wait; 0: jobs never wait",
        ),
    ] = 5.0
