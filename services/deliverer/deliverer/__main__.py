"""Starts the deliverer: `python -m deliverer`."""

from datetime import timedelta

from courant import crypto, logs, serve
from courant.directory.entries import Directory
from courant.directory.follow import follow
from courant.postgres import database
from courant.settings import load
from courant.topics import Channel, Lane
from deliverer.content import Defaults, MessageRenderer
from deliverer.handle import LaneParts, stages
from deliverer.pool import Limits
from deliverer.routes import follow_quota, make_routes
from deliverer.settings import DelivererSettings
from deliverer.store import PostgresStore


def main() -> int:
    """Run until the process is asked to stop; return the exit code."""
    settings = load(DelivererSettings, "deliverer")
    logs.start("deliverer", settings.courant_log_format, settings.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    directory, cluster = Directory(), settings.cluster
    ring = crypto.key_ring(settings.courant_seal_keys.get_secret_value())
    defaults = Defaults(settings.courant_sending_domain, settings.deliverer_sms_origin)
    lease = timedelta(seconds=settings.courant_lease_seconds)
    url = settings.database_url.get_secret_value()
    engine = database.engine(url, "deliverer", connections=len(Channel) * len(Lane) + 1)
    routes = make_routes(settings)
    call_seconds = settings.deliverer_connect_timeout_seconds + settings.read_seconds
    parts = LaneParts(
        PostgresStore(engine, lease, lambda: directory.short_lived),
        MessageRenderer(directory, ring, defaults),
        routes.by_channel,
        routes.simulated,
        Limits(
            lease,
            timedelta(seconds=call_seconds),
            settings.deliverer_threads,
        ),
        ready=lambda: None if directory.is_read else "the directory is not read yet",
        stopping=stop,
    )
    serve.health(
        settings.deliverer_health_host,
        settings.deliverer_health_port,
        lambda: parts.ready() or database.why_unreachable(engine),
    )
    serve.start("directory", lambda: follow(directory, cluster, "deliverer", stop), stop)
    serve.start("quota", lambda: follow_quota(settings, routes, stop), stop)
    return serve.run(serve.run_stages(stages(parts), cluster, stop), stop)


serve.leave(main())
