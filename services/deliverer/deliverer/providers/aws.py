"""AWS clients without retries of their own, and the function that makes one call with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config

from deliverer.calls import ProviderOutcome
from deliverer.providers.errors import Api, outcome_of_error


def make_client(service: str, connections: int, connect_seconds: float, read_seconds: float) -> Any:
    """Make a client that all threads share; the first one costs 80 ms and 67 MiB.

    Region, credentials and endpoint come from AWS's own environment variables.
    """
    config = Config(
        # With its default retries botocore would send one message up to five times.
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        # With fewer connections than threads, botocore closes some after each use and reconnects.
        max_pool_connections=connections,
        tcp_keepalive=True,
        # Our typed code builds every value. botocore's check took 19 of 44 µs an email in bulk.
        parameter_validation=False,
    )
    return boto3.client(service, config=config)


def call_api(
    api: Api, to: Sequence[str], method: Callable[..., Mapping[str, Any]], **values: Any
) -> Mapping[str, Any] | ProviderOutcome:
    """Make one API call; return its answer, or the outcome that its exception means."""
    try:
        return method(**values)
    except Exception as error:  # noqa: BLE001  # after any exception the provider may have received the call
        return outcome_of_error(api, error, to)
