"""One supervised process: started with its log, signalled by name, ended with its parent."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LOG_SIZE_BYTES = 20_000_000
LOOK_SECONDS = 0.02

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class NotReady(Exception):
    """A process did not become ready in time, or ended before."""


@dataclass(slots=True)
class Child:
    """How to start and stop one process. A restart makes a new process under the same name."""

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    user: str | None = None
    group: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 25
    orphan_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None
    log_from: int = 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_SIZE_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as out:
            self.log_from = out.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
                # Ctrl-C in a terminal goes to the supervisor alone, which knows the order.
                start_new_session=True,
                preexec_fn=tether(
                    self.orphan_signal
                ),  # safe: a process that starts children has one thread
            )

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    def ended(self) -> int | None:
        """Return the exit code (minus the number of the signal that ended it), else None."""
        return None if self.process is None else self.process.poll()

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the process to end; return whether it has ended."""
        if self.process is None:
            return True
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(10)

    def ask_to_stop(self) -> None:
        self.signal(self.stop_signal)
        self.signal(signal.SIGCONT)  # a frozen process would not handle the signal

    def stop(self) -> None:
        """Send the process its stop signal; kill it if it takes too long to end."""
        self.ask_to_stop()
        if not self.wait(self.stop_seconds):
            self.kill()

    def said(self) -> str:
        """Return what this process has written into its log since its last start."""
        with suppress(FileNotFoundError), self.log.open("rb") as opened:
            opened.seek(self.log_from)
            return opened.read().decode(errors="replace")
        return ""


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for people."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def tether(number: signal.Signals) -> Callable[[], None] | None:
    """Return a function that makes the kernel signal the new process when this one ends.

    Only Linux can do this. Elsewhere the next start looks for leftover processes.
    """
    if _libc is None:
        return None
    prctl, parent = _libc.prctl, os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # the parent ended before the kernel knew of the tether
            os._exit(1)

    return tie


def wait_ready(name: str, ready: Callable[[], bool], child: Child, seconds: float) -> None:
    """Return once it is ready.

    Raises NotReady, with the end of its log, if it ends or is too slow.
    """
    until = time.monotonic() + seconds
    while not ready():
        if (code := child.ended()) is not None:
            raise NotReady(f"{name} ended with {code} before it was ready:\n{tail(child.log)}")
        if time.monotonic() > until:
            raise NotReady(f"{name} was not ready in {seconds:.0f} s:\n{tail(child.log)}")
        time.sleep(LOOK_SECONDS)
