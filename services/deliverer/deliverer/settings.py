"""The deliverer's settings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_settings import SettingsConfigDict

from courant.settings import HealthHost, Port, SealKeys, SendingSettings, StoreSettings

CLAIM_SECONDS_MAX = 1.0
"""Time of the lease that is reserved for the claim and for writing `started` before the call."""
READ_SECONDS_MAX = 8.0
"""The default time for a provider's answer, if the lease leaves that much."""


def _fits_lease(seconds: float | None, info: ValidationInfo) -> float | None:
    """Reject timeouts longer than the lease, because a later call could send a message twice."""
    lease = info.data.get("courant_lease_seconds", 0)
    connect = info.data.get("deliverer_connect_timeout_seconds", 0)
    if (seconds or 0) + connect + CLAIM_SECONDS_MAX >= lease:
        raise ValueError("does not fit into the lease")
    return seconds


class DelivererSettings(StoreSettings, SendingSettings):
    """The settings that the deliverer reads."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, validate_default=True)

    courant_seal_keys: SealKeys
    deliverer_health_host: HealthHost = "127.0.0.1"
    deliverer_health_port: Port = 8420
    deliverer_instances: Annotated[
        int, Field(ge=1, le=1000, description="processes that share the quota, from 1 to 1000")
    ] = 1
    deliverer_threads: Annotated[
        int, Field(ge=1, le=256, description="concurrent calls of each lane, from 1 to 256")
    ] = 16
    deliverer_connect_timeout_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=60,
            description="seconds to connect to a provider, from 0.1 to 60; plus 1 second it must "
            "be less than COURANT_LEASE_SECONDS",
        ),
        AfterValidator(_fits_lease),
    ] = 2.0
    deliverer_read_timeout_seconds: Annotated[
        Annotated[float, Field(ge=0.1, le=120)] | None,
        Field(
            description="seconds to wait for a provider's answer, from 0.1 to 120; plus "
            "DELIVERER_CONNECT_TIMEOUT_SECONDS and 1 second it must be less than "
            "COURANT_LEASE_SECONDS; if not set, 80% of what the lease leaves, at most 8"
        ),
        AfterValidator(_fits_lease),
    ] = None
    deliverer_bulk: Annotated[
        bool, Field(description="true: send several emails in one call, with SendBulkEmail")
    ] = True
    deliverer_ses_configuration_set: Annotated[
        str, Field(description="SES configuration set whose events arrive as receipts")
    ] = ""
    deliverer_sms_api: Annotated[
        Literal["end-user-messaging", "sns"], Field(description="end-user-messaging or sns")
    ] = "end-user-messaging"
    deliverer_sms_origin: Annotated[
        str, Field(description="number, sender id or pool of services without one of their own")
    ] = ""
    deliverer_sms_configuration_set: Annotated[
        str, Field(description="End User Messaging configuration set")
    ] = ""
    deliverer_sms_rate: Annotated[
        float, Field(gt=0, le=100_000, description="SMS a second, of all processes together")
    ] = 20.0

    @property
    def read_seconds(self) -> float:
        """How long to wait for a provider's answer."""
        connect = self.deliverer_connect_timeout_seconds
        left = self.courant_lease_seconds - connect - CLAIM_SECONDS_MAX
        return self.deliverer_read_timeout_seconds or min(READ_SECONDS_MAX, 0.8 * left)
