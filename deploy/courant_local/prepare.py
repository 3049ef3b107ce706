"""Creates the topics and tables before a service starts: `python -m courant_local.prepare`."""

import logging
import sys

from courant import logs, settings
from courant.kafka import clients, topics_admin
from courant.postgres import migrate
from courant.settings import DatabaseUrl, TopicSettings

log = logging.getLogger(__name__)


class PrepareSettings(TopicSettings):
    database_url: DatabaseUrl


if __name__ == "__main__":
    given = settings.load(PrepareSettings, "prepare")
    logs.start("prepare", given.courant_log_format, given.courant_log_level)
    with clients.admin(given.cluster, "prepare") as admin:
        try:
            topics_admin.refuse_fewer(admin, given.partitions)
        except topics_admin.FewerPartitions as raised:
            # Not a reason to stop: somebody added them, and every start comes through here.
            log.warning("topics keep their partitions", extra={"reason": str(raised)})
        try:
            topics_admin.apply(admin, given.courant_replication, given.partitions)
        except (topics_admin.OtherPrefix, topics_admin.FewerReplicas) as raised:
            sys.exit(f"prepare: {raised}")
        migrate.prepare(given.database_url.get_secret_value(), admin)
