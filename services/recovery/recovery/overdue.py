"""The SQL that finds and locks overdue rows, chunks and jobs; `store` runs it."""

from courant.contracts import Command
from courant.lifecycle import State
from courant.postgres import jobs
from courant.postgres.holds import Scope
from courant.postgres.tables import IN_TURN, SINCE, UNDER_WAY

# ruff: noqa: S608  (all SQL that is put together here is ours)

COLUMNS = "n.id, n.attempt, n.channel, n.lane, n.template_id, n.template_version"
TAKE = "FOR UPDATE OF n SKIP LOCKED"
# Created rows wait for a time (DUE) or for their turn (UNCLAIMED, UNCLAIMED_OF_JOBS). Each part has
# an index of its own, so that a backlog of one does not slow down the search of the others.
DUE = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CREATED}' AND n.issued_at < n.not_before AND n.not_before <= now()
    ORDER BY n.not_before LIMIT %(limit)s {TAKE}"""
UNCLAIMED = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.state = '{State.CREATED}' AND n.channel = %(channel)s AND n.lane = %(lane)s
        AND {IN_TURN} AND n.job_id IS NULL AND n.issued_at < %(before)s
    ORDER BY n.issued_at LIMIT %(limit)s {TAKE}"""
# The rows of jobs are searched job by job, so that the rows of a paused job are not looked at, and
# a cancelled job's rows are found however many others wait. The index is searched once for each job
# that has rows in its lane; job-runner keeps those few. All rows of jobs are in the bulk lane.
OF_JOB = f"n.state = '{State.CREATED}' AND {IN_TURN} AND n.job_id IS NOT NULL"
OF_JOBS = f"""
    WITH RECURSIVE waiting (channel, job_id) AS (
        (SELECT n.channel, n.job_id FROM notifications n WHERE {OF_JOB} AND n.channel >= %(channel)s
            ORDER BY n.channel, n.job_id LIMIT 1)
        UNION ALL
        SELECT next.* FROM waiting j CROSS JOIN LATERAL (
            SELECT n.channel, n.job_id FROM notifications n
            WHERE {OF_JOB} AND (n.channel, n.job_id) > (j.channel, j.job_id)
            ORDER BY n.channel, n.job_id LIMIT 1) AS next)
    SELECT n.* FROM waiting j CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM notifications n
        WHERE {OF_JOB} AND n.channel = j.channel AND n.job_id = j.job_id
            AND n.issued_at < %(before)s
        ORDER BY n.issued_at LIMIT %(limit)s {TAKE}) AS n
    WHERE {{which}} LIMIT %(limit)s"""
UNCLAIMED_OF_JOBS = OF_JOBS.format(
    which=f"j.channel = %(channel)s AND {jobs.sql_job_runs('j.job_id')}"
)
# A row that waits for a time is found once that has come and a claim has passed over its order.
CANCELLED = OF_JOBS.format(which=f"NOT {jobs.sql_unless_commanded('j.job_id', Command.CANCELLED)}")
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
    EXISTS (SELECT FROM calls c WHERE c.notification = n.id AND c.attempt = n.attempt)"""
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
# Which rows are late depends on their template and job, so rows that may stay are among the oldest.
# One run looks at `looks` rows and the next goes on after the last of them (sweeps.expired).
LOOK = f"""
    SELECT n.id, n.since, {{late}} AS late FROM (
        SELECT n.id, n.job_id, n.template_id, n.template_version, n.issued_at, {SINCE} AS since
        FROM notifications n
        WHERE n.state = '{State.CREATED}' AND {SINCE} < now() - %(least)s
            AND ({SINCE}, n.id) > (%(since)s, %(id)s)
        ORDER BY {SINCE}, n.id LIMIT %(looks)s) AS n
    LEFT JOIN unnest(%(templates)s::uuid[], %(versions)s::int[], %(hours)s::int[])
        AS s (template_id, template_version, hours) USING (template_id, template_version)
    CROSS JOIN LATERAL (
        SELECT now() - coalesce(make_interval(hours => s.hours), %(usual)s)) AS over (before)
    ORDER BY n.since, n.id"""
EXPIRED = LOOK.format(
    late=f"""(n.since < over.before AND n.issued_at < %(delivery)s
        AND {jobs.sql_unless_commanded("n.job_id", Command.PAUSED)}
        AND (n.job_id IS NULL OR {COMMANDS_KNOWN})
        AND NOT EXISTS (SELECT FROM wishes w WHERE w.job_id = n.job_id
            AND w.wish = '{Command.RESUMED}' AND w.wished_at >= over.before))"""
)
THESE = f"""
    SELECT {COLUMNS} FROM notifications n
    WHERE n.id = ANY(%(ids)s::uuid[]) AND n.state = '{State.CREATED}'
        AND n.issued_at < %(delivery)s
    ORDER BY n.id {TAKE}"""
ISSUED = """
    UPDATE notifications SET issued_at = clock_timestamp() WHERE id = ANY(%s::uuid[])"""
