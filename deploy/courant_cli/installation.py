"""Finds Kafka, Postgres and the keys for the commands: in the environment, else the local stack."""

import os
from contextlib import AbstractContextManager
from functools import cached_property

from pydantic import ValidationError
from sqlalchemy import Engine

from courant import crypto
from courant.kafka.clients import Admin, Cluster, admin
from courant.kafka.producer import KafkaProducer
from courant.postgres import database
from courant.settings import TopicSettings, complaints
from courant_local import home, processes
from courant_local.plan import CommandError, Plan

NAME = "cli"


class Installation:
    """The parts of one installation, each opened when a command first needs it."""

    def __init__(self) -> None:
        stored = home.read(home.home() / "stack.json").get("plan")
        local = known(Plan.from_json(stored)) if stored else {}
        self._known = {**local, **os.environ}

    def variable(self, name: str) -> str:
        """Return a setting; raises CommandError, which names it."""
        if not self._known.get(name):
            raise CommandError(f"{name} is not set, and no stack was started here (`courant up`)")
        return self._known[name]

    @cached_property
    def cluster(self) -> Cluster:
        return self.topics.cluster

    @cached_property
    def topics(self) -> TopicSettings:
        """Return the settings of the cluster and its topics; raises CommandError."""
        self.variable("KAFKA_BOOTSTRAP_SERVERS")
        known = {"COURANT_REPLICATION": "3", **self._known}
        given = {name: known[name.upper()] for name in TopicSettings.model_fields
                 if name.upper() in known}  # fmt: skip
        try:
            return TopicSettings.model_validate(given)
        except ValidationError as error:
            raise CommandError("\n".join(complaints(TopicSettings, error)).strip()) from None

    @cached_property
    def engine(self) -> Engine:
        return database.engine(self.variable("DATABASE_URL"), "cli", connections=2)

    def admin(self) -> AbstractContextManager[Admin]:
        return admin(self.cluster, NAME)

    @cached_property
    def producer(self) -> KafkaProducer:
        return KafkaProducer(self.cluster, NAME)

    @cached_property
    def ring(self) -> crypto.KeyRing:
        return crypto.key_ring(self.variable("COURANT_SEAL_KEYS"))

    @cached_property
    def hash_key(self) -> bytes:
        return self.variable("COURANT_HASH_KEY").encode()


def known(plan: Plan) -> dict[str, str]:
    """Return the environment of the local stack's services and clients."""
    return {**processes.environment(plan), **variables(plan)}


def variables(plan: Plan) -> dict[str, str]:
    """Return the stack's addresses, and the demo service's keys once they exist."""
    demo = home.read(plan.home / "demo.json")
    return {
        "COURANT_URL": plan.url,
        **{name: str(demo[name]) for name in sorted(demo) if name.startswith("COURANT_")},
        "KAFKA_BOOTSTRAP_SERVERS": plan.bootstrap,
        **plan.kafka,
        "DATABASE_URL": plan.database_url,
        "COURANT_SANDBOX_URL": plan.sandbox_url,
    }
