"""Run the saver: `python -m saver`."""

from datetime import timedelta

from courant import logs, serve, settings
from courant.postgres import database
from saver import handle
from saver.settings import SaverSettings
from saver.store import PostgresStore

CONNECTIONS = 7  # one for each of five stages, one to create a day's partitions, one for the probe


def main() -> int:
    loaded = settings.load(SaverSettings, "saver")
    logs.start("saver", loaded.courant_log_format, loaded.courant_log_level)
    stop = serve.Stop()
    stop.listen()
    # A session that waits for somebody else's lock gives up soon: its whole stage waits with it.
    session = {"lock_timeout": "5s"}
    url = loaded.database_url.get_secret_value()
    engine = database.engine(url, "saver", CONNECTIONS, session=session)
    store = PostgresStore(engine, timedelta(seconds=loaded.courant_lease_seconds))
    serve.health(
        loaded.saver_health_host, loaded.saver_health_port, lambda: database.why_unreachable(engine)
    )
    return serve.run(serve.run_stages(handle.stages(store), loaded.cluster, stop), stop)


serve.leave(main())
