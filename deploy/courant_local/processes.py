"""The one table of a stack's processes, in the order of their start; they stop in reverse order."""

import http.client
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from courant_local import kafka, ports, postgres
from courant_local.child import Child
from courant_local.plan import Plan

READY_SECONDS = 0.5
# At most nine instances of a service run here, and the broker makes and loads the files of each
# partition at its start (docs/decisions/0015).
PARTITIONS = "inbox=6,persisted=6,delivery=6,receipts=6"
TOPIC_ARN = "arn:aws:sns:ca-central-1:123456789012:courant-receipts"


@dataclass(frozen=True, slots=True)
class Service:
    """A program of the stack that answers `/readyz` on its health port."""

    kind: str
    module: str
    health_variable: str
    role: str | None = None  # in PostgreSQL; None: it does not use the database
    api_variable: str | None = None  # names the clients' port; None: it is the health port
    stop_seconds: float = 25


SANDBOX = Service("sandbox", "courant_sandbox", "SANDBOX_PORT", stop_seconds=10)
# fmt: off
SERVICES = (
    Service("ingest",     "ingest",     "INGEST_HEALTH_PORT",     "courant_ingest", "INGEST_PORT"),
    Service("saver",      "saver",      "SAVER_HEALTH_PORT",      "courant_saver"),
    Service("deliverer",  "deliverer",  "DELIVERER_HEALTH_PORT",  "courant_deliverer"),
    Service("job-runner", "job_runner", "JOB_RUNNER_HEALTH_PORT", "courant_job_runner"),
    Service("recovery",   "recovery",   "RECOVERY_HEALTH_PORT",   "courant_recovery"),
)
# fmt: on


@dataclass(slots=True)
class Part:
    """One process of the stack, as the supervisor sees it."""

    name: str
    kind: str
    instance: int
    url: str
    port: int
    child: Child
    start: Callable[[], None]
    ready: Callable[[], bool]
    health_port: int | None = None  # where it answers /readyz and /metrics; None: it has none
    state: str = "stopped"
    restarts: int = 0

    @property
    def listens(self) -> dict[str, int]:
        """Return its ports, each by the kind whose setting moves it."""
        ours = {self.kind: self.port}
        return (
            ours
            if self.health_port is None
            else {**ours, ports.health(self.kind): self.health_port}
        )

    @property
    def health_url(self) -> str | None:
        return None if self.health_port is None else f"http://{ports.HOST}:{self.health_port}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Processes that start together: parts must become ready, and tasks must succeed."""

    title: str
    parts: Sequence[Part] = ()
    tasks: Sequence[Child] = field(default=())


def stages(plan: Plan) -> list[Stage]:
    """Return the whole stack."""
    return [
        Stage("Kafka and PostgreSQL", [*brokers(plan), database(plan)]),
        Stage("topics and tables", tasks=[preparation(plan)]),
        Stage("sandbox", [service(plan, SANDBOX, 1)]),
        Stage("services", [part for each in SERVICES for part in instances(plan, each)]),
    ]


def brokers(plan: Plan) -> list[Part]:
    each = range(1, plan.brokers + 1)
    clients = [plan.port("kafka", node) for node in each]
    controllers = [plan.port("controller", node) for node in each]
    made = kafka.cluster(plan.home, clients, controllers, plan.secrets["cluster_id"])
    return [
        Part(b.name, "kafka", b.node, b.bootstrap, b.port, b.child, b.start, b.ready) for b in made
    ]


def database(plan: Plan) -> Part:
    server = postgres.Server(
        plan.home / "postgres",
        port=plan.port("postgres"),
        password=plan.secrets["postgres_password"],
        passwords=plan.role_passwords,
        log=plan.log("postgres"),
    )
    url = f"postgresql://courant@{ports.HOST}:{server.port}/courant"
    return Part(
        server.name, "postgres", 1, url, server.port, server.child, server.start, server.ready
    )


def preparation(plan: Plan) -> Child:
    """Return the process that brings topics and tables to this version, and ends."""
    command = (sys.executable, "-m", "courant_local.prepare")
    env = {**environment(plan), "DATABASE_URL": plan.database_url}
    return Child("prepare", command, plan.log("prepare"), env)


def instances(plan: Plan, described: Service) -> list[Part]:
    each = range(1, plan.instances(described.kind) + 1)
    return [service(plan, described, instance) for instance in each]


def service(plan: Plan, described: Service, instance: int) -> Part:
    name = described.kind if described is SANDBOX else f"{described.kind}-{instance}"
    port = plan.port(described.kind, instance)
    health_port = plan.health_port(described.kind, instance)
    env = {**environment(plan), described.health_variable: str(health_port)}
    if described.api_variable:
        env[described.api_variable] = str(port)
    if described.role:
        env["DATABASE_URL"] = plan.database_url_of(described.role)
    child = Child(
        name,
        (sys.executable, "-m", described.module),
        plan.log(name),
        env,
        stop_seconds=described.stop_seconds,
    )
    url = f"http://{ports.HOST}:{port}"
    return Part(
        name,
        described.kind,
        instance,
        url,
        port,
        child,
        child.start,
        lambda: answers_ready(health_port),
        health_port,
    )


def environment(plan: Plan) -> dict[str, str]:
    """Return the environment that all our processes share; containers use the same names.

    PostgreSQL's URL is not among them, because each process receives the URL of its own role.
    """
    return {
        "NO_PROXY": f"{ports.HOST},localhost",
        "no_proxy": f"{ports.HOST},localhost",
        "PYTHONUNBUFFERED": "1",
        "KAFKA_BOOTSTRAP_SERVERS": plan.bootstrap,
        "COURANT_PARTITIONS": PARTITIONS,
        **plan.kafka,
        "COURANT_HOME": str(plan.home),
        "COURANT_REPLICATION": str(plan.replication),
        "COURANT_SEAL_KEYS": plan.secrets["seal_keys"],
        "COURANT_HASH_KEY": plan.secrets["hash_key"],
        "COURANT_LOG_FORMAT": "json",
        "COURANT_ENVIRONMENT": "local",
        # Short, so that someone who watches sees the claims of a killed process expire.
        "COURANT_LEASE_SECONDS": "6",
        "COURANT_MARGIN_SECONDS": "2",
        "COURANT_GRACE_SECONDS": "30",
        "COURANT_SANDBOX_URL": plan.sandbox_url,
        "PUBLIC_RECEIPTS_URL": f"{plan.url}/receipts",
        "RECEIPTS_TOPIC_ARNS": TOPIC_ARN,
        "RECEIPTS_TRUSTED_CERT_PREFIX": f"{plan.sandbox_url}/",
        "SANDBOX_TOPIC_ARN": TOPIC_ARN,
        "SANDBOX_LEDGER": str(plan.ledger),
        "SANDBOX_RECEIPTS_URL": f"{plan.url}/receipts",
        "AWS_ENDPOINT_URL": plan.sandbox_url,
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_DEFAULT_REGION": "ca-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def answers_ready(port: int) -> bool:
    """Return whether one of our processes reports that it can do its job."""
    connection = http.client.HTTPConnection(ports.HOST, port, timeout=READY_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
