"""Settings: each service declares its own, and they are read once from the environment.

Invalid values prevent the start. All of them are reported together, each with its variable, the
expected value and the actual value. The actual value of a secret is left out. `<NAME>_FILE` may
name a file that has the value.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from courant import crypto, topics
from courant.kafka import clients
from courant.kafka.clients import Cluster

S = TypeVar("S", bound="Settings")


def _ring(value: SecretStr) -> SecretStr:
    crypto.key_ring(value.get_secret_value())
    return value


def _database(value: SecretStr) -> SecretStr:
    try:
        url = make_url(value.get_secret_value())
    except ArgumentError:
        raise ValueError("is not a URL") from None
    if not url.drivername.startswith("postgresql") or not url.host:
        raise ValueError("is not a PostgreSQL URL with a host")
    return value


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < HASH_KEY_MIN:
        raise ValueError("is too short")
    return value


RENAMED = {
    "INGEST_SENDING_DOMAIN": "COURANT_SENDING_DOMAIN",
    "DELIVERER_EMAIL_DOMAIN": "COURANT_SENDING_DOMAIN",
}
"""Every setting that had another name, and its name now. A service that reads the new name does not
start while the old one is set: it would use a default although the operator had set a value."""

HASH_KEY_MIN = 16
PREFIX_MAX = 100
"""Most characters of a prefix. Kafka allows 249 for a whole name; Faust's longest topic has 34."""
Prefix = Annotated[
    str,
    Field(pattern=rf"^[A-Za-z0-9._-]{{0,{PREFIX_MAX}}}$"),
]
Port = Annotated[int, Field(ge=1, le=65535, description="a port from 1 to 65535")]
HealthHost = Annotated[str, Field(description="the address that health and metrics are served on")]
Seconds = Annotated[float, Field(ge=0.1, le=86_400, description="seconds, from 0.1 to 86400")]
Replication = Annotated[
    int, Field(ge=1, le=9, description="replicas of each topic, from 1 to 9; 3 in production")
]


def _partitions(text: str) -> str:
    topics.partition_counts(text)
    return text


Partitions = Annotated[
    str,
    AfterValidator(_partitions),
    Field(
        description="family=number of partitions of each of its topics, several separated by "
        f"commas, from 1 to {topics.PARTITIONS_MAX}, as in inbox=48,persisted=48; other families "
        "keep the number in docs/topics.md; directory, usage and stats cannot be set"
    ),
]
DatabaseUrl = Annotated[
    SecretStr,
    AfterValidator(_database),
    Field(description="postgresql://user:password@host/name"),
]
SealKeys = Annotated[
    SecretStr,
    AfterValidator(_ring),
    Field(description="name:base64 of 32 bytes; several separated by commas, the first encrypts"),
]
HashKey = Annotated[
    SecretStr,
    AfterValidator(_long_enough),
    Field(description=f"a secret of at least {HASH_KEY_MIN} characters"),
]


class Settings(BaseSettings):
    """The settings of every service."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    kafka_bootstrap_servers: Annotated[
        str, Field(min_length=3, description="host:port, several separated by commas")
    ]
    courant_topic_prefix: Annotated[
        Prefix,
        Field(
            description="a prefix of each topic's name, the same for all services: up to 100 "
            "letters, digits, dots, dashes and underscores, or empty"
        ),
    ] = clients.PREFIX
    courant_group_prefix: Annotated[
        Prefix,
        Field(
            description="a prefix of each consumer group, client id and topic of Faust's: up to "
            "100 letters, digits, dots, dashes and underscores, or empty; a group with another "
            "prefix has no offsets"
        ),
    ] = clients.PREFIX
    courant_log_format: Annotated[
        Literal["json", "pretty", "auto"], Field(description="json, pretty or auto")
    ] = "auto"
    courant_log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="debug, info, warning or error"),
    ] = "info"

    @property
    def cluster(self) -> Cluster:
        """Return the Kafka cluster that these settings name."""
        return Cluster(
            self.kafka_bootstrap_servers, self.courant_topic_prefix, self.courant_group_prefix
        )


class TopicSettings(Settings):
    """The settings of `prepare` and `courant topics`, which create the topics."""

    courant_replication: Replication
    courant_partitions: Partitions = ""

    @property
    def partitions(self) -> Mapping[str, int]:
        """Return the numbers of partitions that are set, by family."""
        return topics.partition_counts(self.courant_partitions)


class StoreSettings(Settings):
    """The settings of a service that also uses Postgres."""

    database_url: DatabaseUrl
    courant_lease_seconds: Annotated[
        float,
        Field(
            ge=1,
            le=300,
            description="seconds that a claim is valid, from 1 to 300; the same for all services",
        ),
    ] = 30.0


class SendingSettings(Settings):
    """The settings of a service that also shows or writes the address that mail comes from."""

    courant_sending_domain: Annotated[
        str,
        Field(
            min_length=3,
            description="domain that mail comes from, for services without a domain of their own; "
            "the same for ingest and deliverer",
        ),
    ] = "notification.canada.ca"


def load(kind: type[S], service: str) -> S:
    """Return the settings, or print all that is wrong with them and exit with status 2."""
    faults = renamed(kind, os.environ)
    try:
        settings = kind(**_from_files(kind))
    except ValidationError as error:
        faults += complaints(kind, error)
    else:
        if not faults:
            return settings
    print("\n".join([f"{service}: invalid settings", *faults]), file=sys.stderr)  # noqa: T201  # before there is a log
    raise SystemExit(2)


def renamed(kind: type[Settings], env: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that is set under its old name, if `kind` has the new one."""
    # pydantic-settings ignores the case of names, so this does too.
    set_names = {name.upper().removesuffix("_FILE") for name in env}
    return [
        f"  {old:<28} was renamed: its name is {new} now"
        for old, new in RENAMED.items()
        if old in set_names and new.lower() in kind.model_fields
    ]


def complaints(kind: type[Settings], error: ValidationError) -> list[str]:
    """Return a line for each invalid setting: its variable, the expected and the actual value.

    The value of a secret is not shown.
    """
    lines = []
    for fault in error.errors(include_url=False):
        if not fault["loc"]:  # about several settings together; the message names them
            lines.append(f"  {fault['msg'].removeprefix('Value error, ')}")
            continue
        name = str(fault["loc"][0])
        field = kind.model_fields[name]
        expected = field.description or "another value"
        if fault["type"] == "missing":
            lines.append(f"  {name.upper():<28} is not set, must be {expected}")
        elif "Secret" in str(field.annotation):
            lines.append(f"  {name.upper():<28} must be {expected}; its value is not shown")
        else:
            lines.append(f'  {name.upper():<28} must be {expected}, got "{fault["input"]}"')
    return sorted(set(lines))


def _from_files(kind: type[Settings]) -> dict[str, Any]:
    values = {}
    for name in kind.model_fields:
        path = os.environ.get(f"{name.upper()}_FILE")
        if path and name.upper() not in os.environ:
            try:
                values[name] = Path(path).read_text().strip()
            except OSError as error:
                sys.exit(f"invalid settings\n  {name.upper()}_FILE  does not name a readable file: "
                         f"{error.strerror}")  # fmt: skip
    return values


def declared(kind: type[Settings]) -> list[tuple[str, str, str]]:
    """Return each variable's name, default and description, for `.env.example` and the docs."""
    return [
        (
            name.upper(),
            "" if field.is_required() else str(field.get_default()),
            field.description or "",
        )
        for name, field in kind.model_fields.items()
    ]
