"""What must stand before a service starts, topics and tables: `python -m courant_local.prepare`."""

import sys

from courant import logs, settings
from courant.kafka import clients, topics_admin
from courant.postgres import migrate
from courant.settings import DatabaseUrl, TopicSettings


class PrepareSettings(TopicSettings):
    database_url: DatabaseUrl


if __name__ == "__main__":
    given = settings.load(PrepareSettings, "prepare")
    logs.start("prepare", given.courant_log_format, given.courant_log_level)
    with clients.admin(given.cluster, "prepare") as admin:
        try:
            topics_admin.apply(admin, given.courant_replication, given.partitions)
        except (topics_admin.OtherPrefix, topics_admin.FewerPartitions) as raised:
            sys.exit(f"prepare: {raised}")
        migrate.prepare(given.database_url.get_secret_value(), admin)
