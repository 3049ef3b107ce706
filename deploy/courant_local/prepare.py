"""What must stand before a service starts, topics and tables: `python -m courant_local.prepare`."""

import os

from courant import logs, migrate, topics_admin

if __name__ == "__main__":
    logs.start("prepare", "json", "info")
    client = topics_admin.admin(os.environ["KAFKA_BOOTSTRAP_SERVERS"])
    topics_admin.apply(client, int(os.environ["COURANT_REPLICATION"]))
    migrate.prepare(os.environ["DATABASE_URL"], client)
