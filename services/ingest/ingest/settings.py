"""The settings that ingest reads from the environment."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from courant.settings import DatabaseUrl, HashKey, HealthHost, Port, SealKeys, SendingSettings

MIB = 1024 * 1024


class IngestSettings(SendingSettings):
    """The settings of ingest, including those that it shares with other services."""

    courant_environment: Annotated[
        Literal["local", "production"],
        Field(
            description="local or production; production rejects settings that only a sandbox needs"
        ),
    ] = "production"
    courant_seal_keys: SealKeys
    courant_hash_key: HashKey
    database_url: DatabaseUrl
    ingest_host: Annotated[str, Field(description="the address that the API listens on")] = (
        "127.0.0.1"
    )
    ingest_port: Port = 8400
    ingest_health_host: HealthHost = "127.0.0.1"
    ingest_health_port: Port = 8450
    ingest_in_flight_max: Annotated[
        int, Field(ge=1, le=100_000, description="requests answered at once; further ones get 503")
    ] = 2_000
    ingest_fair_share: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="notifications a minute that a service sends in its templates' lanes while "
            "other services send too; further ones go one lane down",
        ),
    ] = 6_000
    ingest_body_bytes_max: Annotated[
        int,
        Field(ge=1024, le=100 * MIB, description="bytes of a request's body; more get 413"),
    ] = 15 * MIB
    ingest_bodies_bytes_max: Annotated[
        int,
        Field(
            ge=64 * 1024,
            le=10_240 * MIB,
            description="bytes of all bodies in memory at once; more get 503, large bodies first",
        ),
    ] = 80 * MIB
    ingest_idle_seconds: Annotated[
        int,
        Field(
            ge=5,
            le=3_600,
            description="after this time an idle connection is closed; longer than your balancer's",
        ),
    ] = 75
    ingest_bulk_rows_max: Annotated[
        int, Field(ge=1, le=100_000, description="rows of one POST /v2/notifications/bulk")
    ] = 50_000
    ingest_job_rows_max: Annotated[
        int, Field(ge=1, le=10_000_000, description="rows of one file to POST /v2/jobs")
    ] = 1_000_000
    ingest_uploads_max: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="bulk requests and files read at once, at most half of one service",
        ),
    ] = 4
    ingest_readers: Annotated[
        int,
        Field(ge=1, le=64, description="connections that read Postgres, each with a thread"),
    ] = 4
    ingest_docs_origins: Annotated[
        str, Field(description="origins whose pages may call the API, separated by commas")
    ] = ""
    ingest_docs_url: Annotated[
        str, Field(description="the documentation that error texts link to")
    ] = "https://documentation.notification.canada.ca"
    ingest_simulated_emails: Annotated[
        str, Field(description="addresses that nothing is sent to, separated by commas")
    ] = ",".join(f"simulate-delivered{n}@notification.canada.ca" for n in ("", "-2", "-3"))
    ingest_simulated_numbers: Annotated[
        str, Field(description="numbers that nothing is sent to, separated by commas")
    ] = "+16132532222,+16132532223,+16132532224"
    receipts_topic_arns: Annotated[
        str, Field(description="the SNS topics whose receipts are accepted, separated by commas")
    ] = ""
    receipts_trusted_cert_prefix: Annotated[
        str, Field(description="URL prefix of a sandbox's certificate; never in production")
    ] = ""
    receipts_auto_replies_fail: Annotated[
        bool,
        Field(
            description="an out-of-office reply makes a delivered email temporary-failure; "
            "otherwise it is only an event"
        ),
    ] = True

    @model_validator(mode="after")
    def _sandbox_stays_out(self) -> Self:
        if self.courant_environment == "production" and self.receipts_trusted_cert_prefix:
            raise ValueError("RECEIPTS_TRUSTED_CERT_PREFIX is for a sandbox, not for production")
        return self

    @model_validator(mode="after")
    def _one_body_fits(self) -> Self:
        # A large body may fill three quarters of the budget (ingest.http.budget).
        if self.ingest_bodies_bytes_max < 2 * self.ingest_body_bytes_max:
            raise ValueError(
                "INGEST_BODIES_BYTES_MAX must be at least twice INGEST_BODY_BYTES_MAX, otherwise a "
                "large request never finds room"
            )
        return self

    @model_validator(mode="after")
    def _health_stays_off_the_api(self) -> Self:
        if self.ingest_health_port == self.ingest_port:
            raise ValueError("INGEST_HEALTH_PORT must be another port than INGEST_PORT")
        return self


def split_list(text: str) -> list[str]:
    """Return the entries of a text that are separated by commas."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]
