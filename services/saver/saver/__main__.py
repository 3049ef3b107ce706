"""Runs the saver: `python -m saver`."""

from datetime import timedelta

from courant import logs, serve, settings
from courant.postgres import database
from saver import handle
from saver.settings import SaverSettings
from saver.store import PostgresStore

CONNECTIONS = 7  # five stages, one that makes a day's tables meanwhile, and the probe


def main() -> int:
    wanted = settings.load(SaverSettings, "saver")
    logs.start("saver", wanted.courant_log_format, wanted.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    engine = database.engine(wanted.database_url.get_secret_value(), "saver", CONNECTIONS)
    store = PostgresStore(engine, timedelta(seconds=wanted.courant_lease_seconds))
    serve.health(
        wanted.saver_health_host, wanted.saver_health_port, lambda: database.why_unreachable(engine)
    )
    return serve.run(
        serve.run_stages(handle.stages(store), wanted.kafka_bootstrap_servers, stop), stop
    )


serve.leave(main())
