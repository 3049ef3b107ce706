"""Plans a stack: its home, its ports, the number of instances, and what its users need to know."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from courant.postgres.grants import GRANTS
from courant_local import home, ports

REPLICATION_MAX = 3
REMEMBERED = ("COURANT_TOPIC_PREFIX", "COURANT_GROUP_PREFIX", "COURANT_PARTITIONS")
"""Environment settings that a home keeps, because its cluster was made with them."""


class CommandError(Exception):
    """A command or setting contradicts itself, or does not fit the data in the home."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A stack's plan, made before any of its processes runs."""

    home: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)
    brokers: int = 1
    scale: Mapping[str, int] = field(default_factory=dict)
    restart: bool = True
    kafka: Mapping[str, str] = field(default_factory=dict)  # those of REMEMBERED that were set

    def port(self, kind: str, instance: int = 1) -> int:
        return self.ports[kind] + instance - 1

    def health_port(self, kind: str, instance: int = 1) -> int:
        return self.port(ports.health(kind), instance)

    def instances(self, kind: str) -> int:
        return self.scale.get(kind, 1)

    @property
    def replication(self) -> int:
        return min(REPLICATION_MAX, self.brokers)

    @property
    def bootstrap(self) -> str:
        each = range(1, self.brokers + 1)
        return ",".join(f"{ports.HOST}:{self.port('kafka', node)}" for node in each)

    @property
    def database_url(self) -> str:
        """Return PostgreSQL's URL for the database's owner."""
        return self._database_url("courant", self.secrets["postgres_password"])

    @property
    def role_passwords(self) -> dict[str, str]:
        """Return PostgreSQL's URL for each service's role."""
        return {role: self.secrets[f"{role}_password"] for role in GRANTS}

    def database_url_of(self, role: str) -> str:
        """Return PostgreSQL's URL for a service's role."""
        return self._database_url(role, self.role_passwords[role])

    def _database_url(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@{ports.HOST}:{self.port('postgres')}/courant"

    @property
    def url(self) -> str:
        """Return the API's base URL."""
        return f"http://{ports.HOST}:{self.port('ingest')}"

    @property
    def sandbox_url(self) -> str:
        return f"http://{ports.HOST}:{self.port('sandbox')}"

    @property
    def ledger(self) -> Path:
        """Return the file in which the sandbox records the messages that it booked."""
        return self.home / "ledger.jsonl"

    def log(self, name: str) -> Path:
        return self.home / "log" / f"{name}.log"

    def to_json(self) -> dict[str, Any]:
        """Return the plan's fields for stack.json: all but the secrets."""
        return {
            "home": str(self.home),
            "ports": dict(self.ports),
            "brokers": self.brokers,
            "scale": dict(self.scale),
            "restart": self.restart,
            "kafka": dict(self.kafka),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return the plan from `to_json()`, with this home's secrets."""
        place = Path(fields["home"])
        rest = {name: value for name, value in fields.items() if name != "home"}
        return cls(home=place, secrets=home.own_secrets(place), **rest)


def make(
    place: Path,
    brokers: int | None = None,
    scale: Mapping[str, int] | None = None,
    restart: bool = True,
) -> Plan:
    """Return the plan for a home, from the environment and the home's last plan."""
    last = home.read(place / "stack.json").get("plan", {})
    count = brokers or last.get("brokers", 1)
    if last and count != last["brokers"]:
        raise CommandError(
            f"the stack in {place} was made with {last['brokers']} broker(s); "
            f"another number needs another COURANT_HOME"
        )
    asked = {name: os.environ[name] for name in REMEMBERED if name in os.environ}
    numbers = {"brokers": count, **(scale or {})}
    for name, number in numbers.items():
        if not 1 <= number < ports.WIDTH:
            raise CommandError(f"{name} must be from 1 to {ports.WIDTH - 1}, got {number}")
    return Plan(
        home=place,
        ports=ports.chosen(os.environ, last.get("ports", {})),
        secrets=home.own_secrets(place),
        brokers=count,
        scale=dict(scale or {}),
        restart=restart,
        kafka={**last.get("kafka", {}), **asked},
    )
