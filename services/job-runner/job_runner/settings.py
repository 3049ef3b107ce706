"""What job-runner takes from the environment."""

from typing import Annotated

from pydantic import Field

from courant.settings import Port, Settings


class JobRunnerSettings(Settings):
    """Job-runner's settings."""

    job_runner_health_host: Annotated[
        str, Field(description="the address that health and metrics are served on")
    ] = "127.0.0.1"
    job_runner_health_port: Port = 8430
