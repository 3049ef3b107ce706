"""Sends the same request over and over, on many connections, as fast as it is answered.

One thread reads only the length and status of an answer, to leave the two cores to the product.
"""

import re
import selectors
import socket
import time
from dataclasses import dataclass, field

from courant_local.ports import HOST

CONNECTIONS = 64
ANSWER_BYTES = 65_536
ANSWER_SECONDS = 30.0
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
ACCEPTED = b"HTTP/1.1 201 "


@dataclass
class Line:
    """A connection, and the part of its answer that has arrived."""

    socket: socket.socket
    asked_at: float = 0.0
    came: bytes = b""


@dataclass
class Answered:
    """The result of a load; latencies in seconds."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return answers per second."""
        return len(self.waits) / self.seconds

    def p99_ms(self) -> float:
        """Return the 99th percentile of the latency."""
        return 1000 * sorted(self.waits)[int(0.99 * len(self.waits))]


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return the bytes of a request."""
    head = {"Host": HOST, "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def load(port: int, request: bytes, count: int) -> Answered:
    """Send the request `count` times; raises AssertionError for any answer but 201."""
    answered, left = Answered(), count
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(min(CONNECTIONS, count)):
            line = Line(socket.create_connection((HOST, port), ANSWER_SECONDS))
            selector.register(line.socket, selectors.EVENT_READ, line)
            ask(line, request)
            left -= 1
        while len(answered.waits) < count:
            ready = selector.select(ANSWER_SECONDS)
            assert ready, "no answer in time"
            for key, _ in ready:
                if heard(key.data, answered) and left:
                    ask(key.data, request)
                    left -= 1
        answered.seconds = time.perf_counter() - began
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return answered


def ask(line: Line, request: bytes) -> None:
    """Send the request once."""
    line.came, line.asked_at = b"", time.perf_counter()
    line.socket.sendall(request)


def heard(line: Line, answered: Answered) -> bool:
    """Read the available bytes; return whether the answer is complete."""
    piece = line.socket.recv(ANSWER_BYTES)
    assert piece, "the server closed a connection"
    line.came += piece
    head, gap, body = line.came.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    if not gap or (length and len(body) < int(length[1])):
        return False
    assert line.came.startswith(ACCEPTED), line.came[:300]
    answered.waits.append(time.perf_counter() - line.asked_at)
    return True
