"""Access to PostgreSQL: engines, holds after a restart, classes of errors, COPY's text format."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import attrgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2.extras import register_uuid
from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from courant.errors import Refused, TooSlow, Unavailable, Unfit
from courant.postgres.holds import Scope

VALUES = ("22", "23", "54000")
"""SQLSTATEs, or their first characters, that a record's values may cause (decision 0018).

22 is a value that its type cannot hold, 23 a constraint, 54000 a value too long for its index.
"""
TOO_SLOW = ("57014", "55P03")
"""SQLSTATEs of `statement_timeout` and `lock_timeout`."""
PASSING = ("08", "25006", "40", "53", "55", "57", "58030")
"""SQLSTATEs, or their first characters, that pass without a person: an outage, a standby."""

register_uuid()  # type: ignore[no-untyped-call]  # arrays of UUIDs, both ways

# Raises the hold, or renews one that stands, because what it waits for has begun again. Deletes the
# marks, because their times may come from another server's clock. The scope `jobs` holds the bulk
# lane until job-runner has read again which jobs were cancelled or paused. The other lanes need not
# wait for job-runner.
HOLD = f"""
    WITH emptied AS (DELETE FROM marks)
    INSERT INTO holds (scope, reason)
    SELECT scope, %s FROM unnest(ARRAY['{Scope.REBUILD}', '{Scope.JOBS}']) AS scope
    ON CONFLICT (scope) DO UPDATE
    SET reason = excluded.reason, raised_at = now(), stands = true"""  # noqa: S608  # names of ours
# Identifies one start of one server. The timeline comes from the name of the current WAL file,
# because pg_control_checkpoint() shows the timeline of the last checkpoint: for seconds after a
# promotion it returned the old one (seen on PostgreSQL 18). The start time reveals a disk that was
# restored. It is a number because its text changes with the session's time zone. The database's oid
# and the file of `positions` reveal a dump that was loaded into a server that kept running.
FINGERPRINT = """
    SELECT concat_ws('/', system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
        extract(epoch FROM pg_postmaster_start_time()), d.oid, pg_relation_filenode('positions'))
    FROM pg_control_system(), pg_database d WHERE d.datname = current_database()"""
RECOGNISE = f"INSERT INTO servers (id) {FINGERPRINT} ON CONFLICT DO NOTHING"


def engine(
    url: str,
    service: str,
    connections: int | None,
    statement_seconds: int = 60,
    session: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> Engine:
    """Return an engine whose pool holds at most `connections`; with None, it has no pool.

    Without a pool, every connection is a new one. A lost connection makes the next statement raise.
    `session` holds further server settings for each connection, `options` further options of
    SQLAlchemy.
    """
    if connections is None:
        options["poolclass"] = NullPool
    else:
        options |= {"pool_size": connections, "max_overflow": 0, "pool_timeout": 5}
    settings = {
        "statement_timeout": f"{statement_seconds}s",
        "idle_in_transaction_session_timeout": "60s",
        **session,
    }
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg2"),
        connect_args={
            "connect_timeout": 3,
            "application_name": f"courant-{service}",
            # We notice within seconds that the server is gone without closing the connection.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
        **options,
    )


def why_unreachable(engine: Engine) -> str | None:
    """Return why Postgres does not answer, or None if it does."""
    try:
        with classified_errors(), engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
    except (Unavailable, Refused) as error:
        return f"Postgres: {error}"
    return None


def hold_after_restart(cursor: psycopg2.extensions.cursor) -> None:
    """Raise the hold if this start of a server was not seen before: it may lack folded records.

    Call this in each transaction that folds or claims, because a pooler hides that a connection
    leads to another server. Only `migrate.prepare`, which makes the schema and sees every topic
    empty, recognises a server without a hold. A server without positions proves nothing, because a
    backup may be older than the first position.
    """
    cursor.execute(RECOGNISE)
    if cursor.rowcount:
        cursor.execute(HOLD, ["another server, or another start of it"])


@contextmanager
def classified_errors() -> Iterator[None]:
    """Raise Refused if the record's values are to blame, Unavailable for every other error."""
    try:
        yield
    except NoConnection as raised:
        raise Unavailable("no connection is free") from raised
    except (psycopg2.Error, DBAPIError) as raised:
        error = raised.orig if isinstance(raised, DBAPIError) else raised
        assert isinstance(error, psycopg2.Error)
        raise kind_of(error)(f"{error.pgcode}: {type(error).__name__}") from raised


def kind_of(error: psycopg2.Error) -> type[Unavailable | Refused]:
    """Return what an error of PostgreSQL means for the record that met it.

    The SQLSTATE decides, not the class: psycopg2 raises OperationalError for a value that is too
    long for its index. If that counted as unavailable, the one row would stop its partition for
    ever. What no list here names is not the record's fault either.
    """
    code = error.pgcode or "08"  # an error without a code means that the connection is lost
    if code.startswith(TOO_SLOW):
        return TooSlow
    # A violation that names no constraint is the table's: the partition of a day is missing, or a
    # column may not be null that this version does not know.
    nameless = code.startswith("23") and (code == "23502" or not error.diag.constraint_name)
    if code.startswith(VALUES) and not nameless:
        return Refused
    return Unavailable if nameless or code.startswith(PASSING) else Unfit


def array(ids: Iterable[UUID]) -> str:
    """Write ids as PostgreSQL writes a uuid[].

    A statement selects its rows by `id = ANY` of this array, even where a join already does. The
    planner then looks only into the days of these ids and knows how many rows to expect. From a
    range of ids that are younger than the day's last ANALYZE it expects one row, and then reads the
    whole range for each row (500 moves in a backlog of 50,000: 1.6 s; selected by id: 9 ms).
    """
    return f"{{{','.join([id.hex for id in ids])}}}"


NULL = r"\N"
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
FORMS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: NULL,
    UUID: attrgetter("hex"),
    bytes: lambda value: rf"\\x{value.hex()}",
    datetime: datetime.isoformat,
    int: str,
}


def copy_lines(rows: Iterable[Sequence[object]]) -> io.StringIO:
    """Write rows in COPY's text format, in which null differs from the empty string.

    The type of each value is looked up once: 5 µs for a row of 16 values. Testing for one type
    after another took 14 µs, more than Postgres itself takes for the row and its event.
    """
    lines = ["\t".join([FORMS.get(type(each), escaped)(each) for each in row]) for row in rows]
    return io.StringIO("".join([line + "\n" for line in lines]))


def escaped(text: str) -> str:
    """Escape a text so that COPY reads back the same text."""
    return text if text.isprintable() and "\\" not in text else text.translate(ESCAPES)
