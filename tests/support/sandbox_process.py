"""The sandbox as its own process, with unmodified boto3 as its client and a receiver of posts."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx2
from botocore.config import Config

from support.waiting import ANSWER_SECONDS, WAIT_SECONDS, wait


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Sandbox:
    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        ours = {
            "SANDBOX_PORT": str(self.port),
            "SANDBOX_LEDGER": str(self.directory / "new" / "ledger.jsonl"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "courant_sandbox"], env=os.environ | ours | self.settings
        )
        wait(self.ready, "the sandbox is ready")

    def ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=ANSWER_SECONDS).is_success
        except httpx2.TransportError:
            return False

    def end(self, by: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(by)
        return self.process.wait(WAIT_SECONDS)

    def order(self, **orders: Any) -> None:
        httpx2.put(f"{self.url}/_control", json=orders, timeout=ANSWER_SECONDS).raise_for_status()

    def reset(self) -> None:
        httpx2.delete(f"{self.url}/_control", timeout=ANSWER_SECONDS).raise_for_status()

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=ANSWER_SECONDS)

    def calls(self) -> dict[str, Any]:
        calls: dict[str, Any] = self.get("/calls").json()
        return calls

    def ledger(self, since: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.get(f"/ledger?since={since}").text.splitlines()]

    def line_of(self, id: str) -> dict[str, Any]:
        (line,) = [line for line in self.ledger() if line["notification_id"] == id]
        return line

    def client(self, service: str, read_timeout: float = ANSWER_SECONDS) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="ca-central-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=ANSWER_SECONDS,
                read_timeout=read_timeout,
            ),
        )


@contextmanager
def running(directory: Path, **settings: str) -> Iterator[Sandbox]:
    sandbox = Sandbox(directory, settings)
    sandbox.start()
    try:
        yield sandbox
    finally:
        assert sandbox.process is not None
        if sandbox.process.poll() is None:
            assert sandbox.end(signal.SIGTERM) == 0


@dataclass
class Post:
    headers: dict[str, str]
    envelope: dict[str, str]
    at: float

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.envelope["Message"])
        return event


class Receiver:
    """Receives posts as the receipts' endpoint does, and answers with `status`.

    It also confirms subscriptions while `confirms` is true.
    """

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.connections = 0
        self.status = 200
        self.confirms = True
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                post = Post(headers, json.loads(body), time.monotonic())
                receiver.posts.append(post)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.wfile.flush()
                if post.envelope["Type"] == "SubscriptionConfirmation" and receiver.confirms:
                    httpx2.get(
                        post.envelope["SubscribeURL"], timeout=ANSWER_SECONDS
                    ).raise_for_status()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/receipts"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def of(self, message_id: str) -> list[Post]:
        """Return the posts about one message, in the order of their arrival."""
        return [
            post
            for post in list(self.posts)
            if post.envelope["Type"] == "Notification" and message_id in post.envelope["Message"]
        ]

    def kinds(self, message_id: str) -> list[str]:
        return [post.event["eventType"] for post in self.of(message_id)]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def email(to: str, id: str = "", attempt: int = 1, **more: Any) -> dict[str, Any]:
    """Return the arguments of an ordinary SendEmail."""
    tags = [{"Name": "courant_id", "Value": id}, {"Name": "courant_attempt", "Value": str(attempt)}]
    return {
        "FromEmailAddress": "service@example.ca",
        "Destination": {"ToAddresses": [to]},
        "Content": {
            "Simple": {
                "Subject": {"Data": "A subject"},
                "Body": {"Text": {"Data": "A text"}, "Html": {"Data": "<p>A text</p>"}},
            }
        },
        "ConfigurationSetName": "courant",
        "EmailTags": tags if id else [],
    } | more


def bulk(entries: list[tuple[str, str]], data: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the arguments of an ordinary SendBulkEmail, with one entry for each (address, id)."""
    filled = json.dumps(data or {"s": "A subject", "t": "A text", "h": "<p>A text</p>"})
    content = {"Subject": "{{s}}", "Text": "{{t}}", "Html": "{{h}}"}
    return {
        "FromEmailAddress": "service@example.ca",
        "ConfigurationSetName": "courant",
        "DefaultContent": {"Template": {"TemplateContent": content, "TemplateData": "{}"}},
        "BulkEmailEntries": [
            {
                "Destination": {"ToAddresses": [to]},
                "ReplacementTags": [
                    {"Name": "courant_id", "Value": id},
                    {"Name": "courant_attempt", "Value": "3"},
                ],
                "ReplacementEmailContent": {
                    "ReplacementTemplate": {"ReplacementTemplateData": filled}
                },
            }
            for to, id in entries
        ],
    }


def text(to: str, id: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of an ordinary SendTextMessage."""
    return {
        "DestinationPhoneNumber": to,
        "OriginationIdentity": "+16135550000",
        "MessageBody": "A text",
        "Context": {"courant_id": id, "courant_attempt": "2"},
    } | more
