"""Settings: declared once a service, read from the environment, wrong ones named all at once.

A wrong value stops the start and names the variable, what it wants and what it got; a secret's
value is never shown. A secret may also come from a file, which `<NAME>_FILE` names.
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
        raise ValueError("is no URL") from None
    if not url.drivername.startswith("postgresql") or not url.host:
        raise ValueError("is of another kind")
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
start while the old one is set: it would run with a default where the operator chose a value."""

HASH_KEY_MIN = 16
PREFIX_MAX = 100
"""Characters of a prefix. Kafka allows 249 for a whole name, and Faust's longest topic has 34."""
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
        description="family=number of partitions of each of its topics, several parted by commas, "
        f"from 1 to {topics.PARTITIONS_MAX}, as inbox=48,persisted=48; for a family that is not "
        "named the number in docs/topics.md; directory, usage and stats cannot be set"
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
    Field(description="name:base64 of 32 bytes; several parted by commas, the first seals"),
]
HashKey = Annotated[
    SecretStr,
    AfterValidator(_long_enough),
    Field(description=f"a secret of at least {HASH_KEY_MIN} characters"),
]


class Settings(BaseSettings):
    """What every service takes."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    kafka_bootstrap_servers: Annotated[
        str, Field(min_length=3, description="host:port, several parted by commas")
    ]
    courant_topic_prefix: Annotated[
        Prefix,
        Field(
            description="a prefix of each topic's name, for all services the same: up to 100 "
            "letters, digits, dots, dashes and underscores, or empty"
        ),
    ] = clients.PREFIX
    courant_group_prefix: Annotated[
        Prefix,
        Field(
            description="a prefix of each consumer group, client id and topic of Faust's: "
            "likewise; a group with another prefix has no offsets"
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
    """What the topics are made by: `prepare` and `courant topics`."""

    courant_replication: Replication
    courant_partitions: Partitions = ""

    @property
    def partitions(self) -> Mapping[str, int]:
        """Return the numbers of partitions that are set, by family."""
        return topics.partition_counts(self.courant_partitions)


class StoreSettings(Settings):
    """What a service that works on Postgres takes besides."""

    database_url: DatabaseUrl
    courant_lease_seconds: Annotated[
        float,
        Field(ge=1, le=300, description="seconds that a claim holds, from 1 to 300; all alike"),
    ] = 30.0


class SendingSettings(Settings):
    """What a service takes besides that shows or writes the address that mail comes from."""

    courant_sending_domain: Annotated[
        str,
        Field(
            min_length=3,
            description="domain that mail comes from, of services that have none of their own; "
            "the same for ingest and deliverer",
        ),
    ] = "notification.canada.ca"


def load(kind: type[S], service: str) -> S:
    """Read the settings, or say what is wrong with all of them and end the process with 2."""
    wrong = renamed(kind, os.environ)
    try:
        read = kind(**_from_files(kind))
    except ValidationError as error:
        wrong += complaints(kind, error)
    else:
        if not wrong:
            return read
    print("\n".join([f"{service}: settings are not usable", *wrong]), file=sys.stderr)  # noqa: T201  # before there is a log
    raise SystemExit(2)


def renamed(kind: type[Settings], env: Mapping[str, str]) -> list[str]:
    """Name each variable that is set under its old name, where this service reads the new one."""
    # As pydantic-settings reads them: whatever their case.
    set_names = {name.upper().removesuffix("_FILE") for name in env}
    return [
        f"  {old:<28} is no longer read; its name is {new} now"
        for old, new in RENAMED.items()
        if old in set_names and new.lower() in kind.model_fields
    ]


def complaints(kind: type[Settings], error: ValidationError) -> list[str]:
    """Say for each wrong setting its variable, what it wants and, unless secret, what it got."""
    lines = []
    for each in error.errors(include_url=False):
        if not each["loc"]:  # about several together, named in the message
            lines.append(f"  {each['msg'].removeprefix('Value error, ')}")
            continue
        name = str(each["loc"][0])
        field = kind.model_fields[name]
        wants = field.description or "another value"
        if each["type"] == "missing":
            lines.append(f"  {name.upper():<28} is not set; wants {wants}")
        elif "Secret" in str(field.annotation):
            lines.append(f"  {name.upper():<28} wants {wants}; what it got is not shown")
        else:
            lines.append(f'  {name.upper():<28} wants {wants}, got "{each["input"]}"')
    return sorted(set(lines))


def _from_files(kind: type[Settings]) -> dict[str, Any]:
    found = {}
    for name in kind.model_fields:
        path = os.environ.get(f"{name.upper()}_FILE")
        if path and name.upper() not in os.environ:
            try:
                found[name] = Path(path).read_text().strip()
            except OSError as error:
                sys.exit(f"settings are not usable\n  {name.upper()}_FILE  names no readable file: "
                         f"{error.strerror}")  # fmt: skip
    return found


def declared(kind: type[Settings]) -> list[tuple[str, str, str]]:
    """Give each variable's name, default and what it wants, for `.env.example` and the docs."""
    return [
        (
            name.upper(),
            "" if field.is_required() else str(field.get_default()),
            field.description or "",
        )
        for name, field in kind.model_fields.items()
    ]
