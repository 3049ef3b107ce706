"""A stack's ports: each has a default and a setting of its own, and one shift moves all of them."""

import socket
from collections.abc import Mapping

import psutil

HOST = "127.0.0.1"

# The first port of each kind. Instances count up from it, at most WIDTH of them.
DEFAULTS = {
    "kafka": 9392,
    "controller": 9492,
    "postgres": 5532,
    "ingest": 8400,
    "saver": 8410,
    "deliverer": 8420,
    "job-runner": 8430,
    "recovery": 8440,
    "ingest-health": 8450,
    "sandbox": 8480,
}
WIDTH = 10
SHIFT = "COURANT_PORT_SHIFT"


class PortTaken(Exception):
    """Another program listens on a port of the stack."""


class PortUnusable(Exception):
    """A setting is not a valid port."""


def setting(kind: str) -> str:
    """Return the setting that moves this kind: COURANT_JOB_RUNNER_PORT for job-runner."""
    return f"COURANT_{kind.upper().replace('-', '_')}_PORT"


def health(kind: str) -> str:
    """Return the kind of the port on which a service answers `/readyz` and `/metrics`.

    It is the service's only port, unless clients are answered on another one.
    """
    own = f"{kind}-health"
    return own if own in DEFAULTS else kind


def chosen(env: Mapping[str, str], remembered: Mapping[str, int]) -> dict[str, int]:
    """Return each kind's first port: its setting, the shifted, the last plan's, the default."""
    shift = _number(SHIFT, env[SHIFT]) if env.get(SHIFT) else None
    ports = {}
    for kind, default in DEFAULTS.items():
        if text := env.get(setting(kind)):
            ports[kind] = _number(setting(kind), text)
        elif shift is not None:
            ports[kind] = default + shift
        else:
            ports[kind] = remembered.get(kind, default)
    return ports


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535 - WIDTH:
        raise PortUnusable(f'{name} must be from 0 to {65_535 - WIDTH}, got "{text}"')
    return int(text)


def free() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as tried:
        tried.bind((HOST, 0))
        port: int = tried.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Return whether a program accepts connections on the port."""
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex((HOST, port)) == 0


def demand(kind: str, port: int) -> None:
    """Raise PortTaken if the port cannot be bound, naming its holder and the setting to change."""
    with socket.socket() as tried:
        # Bind as the processes themselves will, so that remains of closed connections do not
        # matter.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except PermissionError:
            raise PortTaken(f"port {port} ({setting(kind)}) is not allowed to you") from None
        except OSError:
            message = f"port {port} ({setting(kind)}) is taken by {_holder(port)}"
            raise PortTaken(
                f"{message}; set {setting(kind)}, or {SHIFT} to move every port of this stack"
            ) from None


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return "another program"  # on some systems only root may see the holder
    return "another program"
