"""The SQL that finds and locks overdue rows, chunks and jobs; `store` runs it."""

from courant.contracts import Command
from courant.lifecycle import State
from courant.postgres import jobs
from courant.postgres.holds import Scope
from courant.postgres.tables import UNDER_WAY
from courant.topics import Lane

# ruff: noqa: S608  (all SQL that is put together here is ours)

COLUMNS = "n.id, n.attempt, n.channel, n.lane, n.template_id, n.template_version"
TAKE = "FOR UPDATE OF n SKIP LOCKED"
# Created rows wait for a time (DUE) or for their turn (UNCLAIMED). Each part has an index of its
# own, so that a backlog of one does not slow down the search of the other.
DUE = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CREATED}' AND n.issued_at < n.not_before AND n.not_before <= now()
    ORDER BY n.not_before LIMIT %(limit)s {TAKE}"""
UNCLAIMED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CREATED}' AND n.channel = %(channel)s AND n.lane = %(lane)s
        AND coalesce(n.not_before <= n.issued_at, true) AND n.issued_at < %(before)s
        AND {jobs.sql_job_runs("n.job_id")}
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
# A row that waits for a time is found once that has come and a claim has passed over its order. A
# row that is still there after four days has expired.
CANCELLED = f"""
    SELECT {COLUMNS} FROM notifications n JOIN wishes w ON w.job_id = n.job_id
    WHERE w.wish = '{Command.CANCELLED}' AND w.at > now() - interval '4 days'
        AND n.state = '{State.CREATED}' AND n.channel = ANY(%(channels)s) AND n.lane = '{Lane.BULK}'
        AND coalesce(n.not_before <= n.issued_at, true) AND n.issued_at < %(delivery)s
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
# After a restore, which jobs are paused or cancelled is unknown until job-runner has read `jobs`
# again. The hold `jobs` stands for as long.
COMMANDS_KNOWN = f"""
    NOT EXISTS (SELECT FROM holds h WHERE h.stands AND h.scope = '{Scope.JOBS}')"""
UNSAVED = f"""
    SELECT j.id, c.upload_id, c.number, c.first, c.rows FROM chunks c JOIN jobs j USING (upload_id)
    WHERE {UNDER_WAY} AND c.saved_at IS NULL
        AND c.issued_at < %(before)s - least(2 ^ (c.orders - 1) - 1, 60) * interval '1 minute'
        AND {jobs.sql_unless_commanded("j.id", Command.CANCELLED)} AND {COMMANDS_KNOWN}
    ORDER BY c.issued_at LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED"""
# A row's id contains its job's day, and the saver refuses rows of days long ago.
OUTLIVED = f"""
    SELECT j.id FROM jobs j
    WHERE j.finished_at IS NULL AND j.accepted_at < now() - %(age)s
        AND {jobs.sql_unless_commanded("j.id", Command.CANCELLED)}
    ORDER BY j.accepted_at LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED"""
# By id and attempt, because a call of an earlier attempt proves nothing.
IN_CALL = """
    EXISTS (SELECT FROM calls c, unnest(c.notifications, c.attempts) AS e(id, attempt)
        WHERE c.notifications @> ARRAY[n.id] AND e.id = n.id AND e.attempt = n.attempt)"""
# `issued_at < delivery`: an earlier decision must be folded before anything is decided again.
CLAIMED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CLAIMED}' AND n.lease_until < %(before)s
        AND n.issued_at < %(delivery)s AND {{which}} {IN_CALL}
    ORDER BY n.lease_until LIMIT %(limit)s {TAKE}"""
UNSTARTED, UNRESOLVED = CLAIMED.format(which="NOT"), CLAIMED.format(which="")
UNANSWERED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.SENDING}' AND n.state_at < %(before)s AND n.issued_at < %(delivery)s
    ORDER BY n.state_at LIMIT %(limit)s {TAKE}"""
# An id is never younger than its acceptance, so `n.id < youngest` skips the days of later ids.
SINCE = "coalesce(n.scheduled_for, n.accepted_at)"
EXPIRED = f"""
    SELECT {COLUMNS} FROM notifications n
    LEFT JOIN unnest(%(templates)s::uuid[], %(versions)s::int[], %(hours)s::int[])
        AS s(template_id, template_version, hours) USING (template_id, template_version)
    CROSS JOIN LATERAL (
        SELECT now() - coalesce(make_interval(hours => s.hours), %(usual)s)) AS over(before)
    WHERE n.state = '{State.CREATED}' AND n.issued_at < %(delivery)s
        AND {jobs.sql_unless_commanded("n.job_id", Command.PAUSED)}
        AND (n.job_id IS NULL OR {COMMANDS_KNOWN})
        AND {SINCE} < over.before
        AND NOT EXISTS (SELECT FROM wishes w WHERE w.job_id = n.job_id
            AND w.wish = '{Command.RESUMED}' AND w.wished_at >= over.before)
        AND n.id < %(youngest)s
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
ISSUED = """
    UPDATE notifications SET issued_at = clock_timestamp() WHERE id = ANY(%s::uuid[])"""
