"""The settings that recovery reads from the environment."""

from typing import Annotated

from pydantic import Field

from courant.settings import HashKey, HealthHost, Port, Replication, Seconds, StoreSettings


class RecoverySettings(StoreSettings):
    """Recovery's settings."""

    recovery_health_host: HealthHost = "127.0.0.1"
    recovery_health_port: Port = 8440
    courant_replication: Replication = 1
    courant_margin_seconds: Annotated[
        float, Field(ge=0.1, le=60, description="seconds beyond the lease, from 0.1 to 60")
    ] = 5.0
    courant_grace_seconds: Seconds = 900.0
    courant_hash_key: HashKey
    public_receipts_url: Annotated[
        str,
        Field(
            pattern=r"^https?://",
            description="the address of receipts as a provider sees it, https://host/receipts",
        ),
    ]
