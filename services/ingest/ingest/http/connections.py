"""Makes room when connections run short: those that were answered longest ago are closed first.

Granian has one timeout, for the wait on a kept-alive connection and for the head of a request
together. It must be longer than a balancer's idle timeout, so an idle or slow client may hold a
connection for that long. That is harmless until few connections are left.
"""

import os
import socket
import stat
import struct
from collections.abc import Callable, Collection, Iterable, Iterator

OPEN_FILES = "/proc/self/fd"
LAST_DATA_SENT = struct.Struct("=44xI")  # in struct tcp_info of Linux, in milliseconds

Peer = tuple[str, str]  # host and port, as ASGI has them from Granian


def make_room(port: int, most: int, busy: Callable[[], Collection[Peer]]) -> int:
    """Close connections to our port until `most` are left. Returns how many were closed.

    `busy` returns the peers of requests in flight; their connections stay open. Anything else is
    idle, or sends a request's head. Runs in a thread, because it looks at each connection.
    """
    # Other open files are few. Counting them too is cheaper than to ask each what it is.
    if len(open_files()) <= most:
        return 0
    spared = busy()
    silent = {number: milliseconds_silent(each) for number, each, _ in connections(port)}
    longest = sorted(silent, key=silent.__getitem__, reverse=True)
    left = len(silent)
    for number in longest:
        if left <= most:
            break
        # By now, a file's number may stand for another connection.
        for _, connection, peer in connections(port, [number]):
            if peer not in spared:
                connection.shutdown(socket.SHUT_RDWR)
                left -= 1
    return len(silent) - left


def open_files() -> list[int]:
    """Return the numbers of this process's open files; none on a system that does not list them."""
    try:
        return [*map(int, os.listdir(OPEN_FILES))]  # noqa: PTH208  # 11,000 paths take 20 ms
    except FileNotFoundError:
        return []


def connections(
    port: int, numbers: Iterable[int] | None = None
) -> Iterator[tuple[int, socket.socket, Peer]]:
    """Yield this process's connections to a port: the file's number, the socket and its peer.

    The socket is a duplicate, so it stays the same connection until the next step.
    """
    for number in open_files() if numbers is None else numbers:
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if is_ours(connection, port):
                    host, from_port, *_ = connection.getpeername()
                    yield number, connection, (host, str(from_port))
        except OSError:
            continue  # it is closed by now, or only listens


def is_ours(connection: socket.socket, port: int) -> bool:
    """Return whether a socket is a TCP socket on our port."""
    internet = connection.family in (socket.AF_INET, socket.AF_INET6)
    stream = connection.type == socket.SOCK_STREAM
    return internet and stream and connection.getsockname()[1] == port


def milliseconds_silent(connection: socket.socket) -> int:
    """Return the time since we last sent data, or since the connection began."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_SENT.size)
    (milliseconds,) = LAST_DATA_SENT.unpack(info)
    return int(milliseconds)
