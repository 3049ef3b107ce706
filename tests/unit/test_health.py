"""The port of health and metrics, also while the event loop that it asks is stuck, or stops."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from courant import serve

DEADLINE_SECONDS = 30.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(DEADLINE_SECONDS)
    assert not asyncio.all_tasks(made), "a question that nobody waits for goes on"
    made.close()


@pytest.fixture
def stuck(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Keep the loop from running anything meanwhile."""
    began, go_on = threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        go_on.wait(DEADLINE_SECONDS)

    loop.call_soon_threadsafe(block)
    assert began.wait(DEADLINE_SECONDS)
    yield
    go_on.set()
    # Whatever was asked meanwhile has its turn, and ends, before the loop is looked at.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(DEADLINE_SECONDS)


async def well() -> str | None:
    return None


async def ill() -> str | None:
    return "Kafka does not acknowledge"


async def never() -> str | None:
    await asyncio.Event().wait()
    return None


@pytest.mark.parametrize(("ready", "reason"), [(well, None), (ill, "Kafka does not acknowledge")])
def test_a_loop_answers_another_thread(
    ready: Callable[[], asyncio.Future[str | None]],
    reason: str | None,
    loop: asyncio.AbstractEventLoop,
) -> None:
    check = serve.on_loop(loop, ready, lambda: False, DEADLINE_SECONDS)  # type: ignore[arg-type]
    assert check() == reason


@pytest.mark.usefixtures("stuck")
def test_a_loop_that_is_stuck_is_the_reason(loop: asyncio.AbstractEventLoop) -> None:
    check = serve.on_loop(loop, well, lambda: False, 0.05)
    assert check() == "the event loop does not answer"


def test_a_question_without_an_answer_ends_at_its_deadline(loop: asyncio.AbstractEventLoop) -> None:
    check = serve.on_loop(loop, never, lambda: False, 0.05)
    assert check() == "the event loop does not answer"
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(DEADLINE_SECONDS)


def test_a_process_that_stops_says_so_and_asks_no_loop() -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    assert serve.on_loop(closed, well, lambda: True)() == "the process stops"


def test_a_loop_that_ends_while_it_is_asked_is_no_error(loop: asyncio.AbstractEventLoop) -> None:
    asked = threading.Event()

    async def waits() -> str | None:
        asked.set()
        return await never()

    def end() -> None:
        asked.wait(DEADLINE_SECONDS)
        for task in asyncio.all_tasks(loop):  # as asyncio.run does at its end
            loop.call_soon_threadsafe(task.cancel)

    ending = threading.Thread(target=end)
    ending.start()
    assert serve.on_loop(loop, waits, lambda: False, DEADLINE_SECONDS)() == "the process stops"
    ending.join(DEADLINE_SECONDS)


@pytest.fixture
def url(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Serve health on a free port, with a check of the loop."""
    server = serve.health("127.0.0.1", 0, serve.on_loop(loop, well, lambda: False, 0.05))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("stuck")
def test_health_and_metrics_answer_while_the_loop_is_stuck(url: str) -> None:
    with httpx2.Client(base_url=url, timeout=DEADLINE_SECONDS) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            503,
            {"reason": "the event loop does not answer"},
        )
        families = list(text_string_to_metric_families(client.get("/metrics").text))
        assert "courant_loop_silent_seconds" in {each.name for each in families}
        assert client.get("/v2/notifications").status_code == 404


def test_ready_is_200_once_the_loop_answers(loop: asyncio.AbstractEventLoop) -> None:
    check = serve.on_loop(loop, well, lambda: False, DEADLINE_SECONDS)
    server = serve.health("127.0.0.1", 0, check)
    try:
        answer = httpx2.get(f"http://127.0.0.1:{server.server_port}/readyz")
    finally:
        server.shutdown()
        server.server_close()
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_client_that_sends_nothing_does_not_keep_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert serve.Quiet.timeout
    monkeypatch.setattr(serve.Quiet, "timeout", 0.1)
    server = serve.health("127.0.0.1", 0, lambda: None)
    try:
        with socket.create_connection(server.server_address[:2], DEADLINE_SECONDS) as silent:  # type: ignore[arg-type]  # an address of IPv4
            silent.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
            assert silent.recv(1_024) == b""
    finally:
        server.shutdown()
        server.server_close()
