"""The sandbox's settings, from the environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What differs between a laptop, a test and a load run."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_", frozen=True)

    host: str = Field(default="127.0.0.1", description="The address it listens on.")
    port: int = Field(default=8480, ge=1, le=65535, description="The port it listens on.")
    url: str = Field(default="", description="Its base URL in receipts; empty: host and port.")
    ledger: Path = Field(
        default=Path(".courant/sandbox/ledger.jsonl"),
        description="The file of booked messages; key, certificate, contents are beside it.",
    )
    receipts_url: str = Field(default="", description="Where receipts are posted; empty: nowhere.")
    receipts_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of messages with receipts; a signature costs 0.22 ms.",
    )
    topic_arn: str = Field(
        default="arn:aws:sns:ca-central-1:123456789012:courant-receipts",
        description="The SNS topic that receipts name.",
    )
    rate: float = Field(
        default=100_000, gt=0, description="MaxSendRate that GetAccount reports, a second."
    )
    event_delay_seconds: float = Field(
        default=0.05,
        ge=0,
        le=3600,
        description="Delay from booking to the first receipt, and between receipts.",
    )
    max_connections: int = Field(
        default=1024, ge=16, le=65536, description="Connections served at once; others wait."
    )

    @property
    def address(self) -> str:
        """Return the base URL without a slash at its end."""
        return self.url.rstrip("/") or f"http://{self.host}:{self.port}"
