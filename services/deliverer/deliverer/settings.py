"""The deliverer's settings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_settings import SettingsConfigDict

from courant.settings import HealthHost, Port, SealKeys, SendingSettings, StoreSettings

CLAIM_SECONDS_MAX = 1.0
"""In a lease, beyond one call: for the claim, and for writing down that the call begins."""


READ_SECONDS_MAX = 8.0
"""That a provider has for its answer, where the lease leaves so much."""


def _fits_lease(seconds: float | None, info: ValidationInfo) -> float | None:
    """Refuse timeouts that outlast the claim: what is sent after it may be sent by two."""
    lease = info.data.get("courant_lease_seconds", 0)
    connect = info.data.get("deliverer_connect_timeout_seconds", 0)
    if (seconds or 0) + connect + CLAIM_SECONDS_MAX >= lease:
        raise ValueError("does not fit the lease")
    return seconds


class DelivererSettings(StoreSettings, SendingSettings):
    """What the deliverer takes."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, validate_default=True)

    courant_seal_keys: SealKeys
    deliverer_health_host: HealthHost = "127.0.0.1"
    deliverer_health_port: Port = 8420
    deliverer_instances: Annotated[
        int, Field(ge=1, le=1000, description="processes that share the quota, from 1 to 1000")
    ] = 1
    deliverer_threads: Annotated[
        int, Field(ge=1, le=256, description="calls at a time of each lane, from 1 to 256")
    ] = 16
    deliverer_connect_timeout_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=60,
            description="seconds to reach a provider, from 0.1 to 60; with a second more within "
            "COURANT_LEASE_SECONDS",
        ),
        AfterValidator(_fits_lease),
    ] = 2.0
    deliverer_read_timeout_seconds: Annotated[
        Annotated[float, Field(ge=0.1, le=120)] | None,
        Field(
            description="seconds to wait for a provider's answer, from 0.1 to 120; with "
            "DELIVERER_CONNECT_TIMEOUT_SECONDS and a second more within COURANT_LEASE_SECONDS; "
            "not set: what the lease leaves, at most 8"
        ),
        AfterValidator(_fits_lease),
    ] = None
    deliverer_bulk: Annotated[
        bool, Field(description="true: several emails a call, by SendBulkEmail")
    ] = True
    deliverer_ses_configuration_set: Annotated[
        str, Field(description="SES configuration set whose events come back as receipts")
    ] = ""
    deliverer_sms_api: Annotated[
        Literal["end-user-messaging", "sns"], Field(description="end-user-messaging or sns")
    ] = "end-user-messaging"
    deliverer_sms_origin: Annotated[
        str, Field(description="number, sender id or pool of services that have none of their own")
    ] = ""
    deliverer_sms_configuration_set: Annotated[
        str, Field(description="End User Messaging configuration set")
    ] = ""
    deliverer_sms_rate: Annotated[
        float, Field(gt=0, le=100_000, description="messages a second of all processes")
    ] = 20.0

    @property
    def read_seconds(self) -> float:
        """Give how long to wait for a provider's answer."""
        connect = self.deliverer_connect_timeout_seconds
        left = self.courant_lease_seconds - connect - CLAIM_SECONDS_MAX
        return self.deliverer_read_timeout_seconds or min(READ_SECONDS_MAX, 0.8 * left)
