"""What ingest takes from the environment."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from courant.settings import DatabaseUrl, HashKey, HealthHost, Port, SealKeys, SendingSettings

MIB = 1024 * 1024


class IngestSettings(SendingSettings):
    """Ingest's own, and what it shares with others."""

    courant_environment: Annotated[
        Literal["local", "production"],
        Field(description="local or production; production refuses what only a sandbox needs"),
    ] = "production"
    courant_seal_keys: SealKeys
    courant_hash_key: HashKey
    database_url: DatabaseUrl
    ingest_host: Annotated[str, Field(description="the address it listens on")] = "127.0.0.1"
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
            "others send too; further ones go one lane down",
        ),
    ] = 6_000
    ingest_body_bytes_max: Annotated[
        int, Field(ge=1024, le=100 * MIB, description="bytes of a request's body")
    ] = 15 * MIB
    ingest_bulk_rows_max: Annotated[
        int, Field(ge=1, le=100_000, description="rows of a POST /v2/notifications/bulk")
    ] = 50_000
    ingest_job_rows_max: Annotated[
        int, Field(ge=1, le=10_000_000, description="rows of a file that POST /v2/jobs takes")
    ] = 1_000_000
    ingest_uploads_max: Annotated[
        int,
        Field(
            ge=1, le=64, description="bulk requests and files taken at once, half by one service"
        ),
    ] = 4
    ingest_readers: Annotated[
        int, Field(ge=1, le=64, description="connections to Postgres, each with a thread")
    ] = 4
    ingest_docs_origins: Annotated[
        str, Field(description="origins whose pages may call the API, parted by commas")
    ] = ""
    ingest_docs_url: Annotated[str, Field(description="where refusals point readers to")] = (
        "https://documentation.notification.canada.ca"
    )
    ingest_simulated_emails: Annotated[
        str, Field(description="recipients that nothing is sent to, parted by commas")
    ] = ",".join(f"simulate-delivered{n}@notification.canada.ca" for n in ("", "-2", "-3"))
    ingest_simulated_numbers: Annotated[
        str, Field(description="recipients that nothing is sent to, parted by commas")
    ] = "+16132532222,+16132532223,+16132532224"
    receipts_topic_arns: Annotated[
        str, Field(description="the SNS topics whose receipts are taken, parted by commas")
    ] = ""
    receipts_trusted_cert_prefix: Annotated[
        str, Field(description="where a sandbox's certificate lies; never in production")
    ] = ""

    @model_validator(mode="after")
    def _sandbox_stays_out(self) -> Self:
        if self.courant_environment == "production" and self.receipts_trusted_cert_prefix:
            raise ValueError("RECEIPTS_TRUSTED_CERT_PREFIX is for a sandbox, not for production")
        return self

    @model_validator(mode="after")
    def _health_stays_off_the_api(self) -> Self:
        if self.ingest_health_port == self.ingest_port:
            raise ValueError("INGEST_HEALTH_PORT must be another port than INGEST_PORT")
        return self


def split_list(text: str) -> list[str]:
    """Give the entries of a list that commas part."""
    return [each.strip() for each in text.split(",") if each.strip()]
