"""Rate limits, back-off and what counts as passing."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cloud_core.sources.record import SourceError
from cloud_core.sources.remote import (
    JsonClient,
    Politeness,
    RateLimit,
    RefusedError,
    ServerBusyError,
    redacted,
)

Answers = list[tuple[int, dict[str, str], bytes]]


@pytest.fixture
def served() -> Iterator[tuple[str, Answers]]:
    """A server that gives the answers of a list, one after the other; the last one stays."""
    answers: Answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def client(waits: list[float], **options: float) -> JsonClient:
    made = JsonClient(Politeness.model_validate({"requests_per_second": 1000, "attempts": 4} | options))
    made.rate_limit._sleep = waits.append
    return made


def test_requests_are_kept_apart() -> None:
    rate_limit = RateLimit(Politeness(requests_per_second=50))
    begin = time.monotonic()
    for _ in range(6):
        rate_limit.wait()
    assert time.monotonic() - begin >= 5 / 50


def test_waits_double_and_retry_after_is_heeded(served: tuple[str, Answers]) -> None:
    url, answers = served
    answers += [(503, {}, b""), (502, {}, b""), (429, {"retry-after": "17"}, b""), (200, {}, b'{"a": 1}')]
    waits: list[float] = []
    assert client(waits, backoff_s=1.0).get(url) == {"a": 1}
    long = [wait for wait in waits if wait > 0.1]
    assert 0.75 <= long[0] <= 1.25 and 1.5 <= long[1] <= 2.5 and long[2] == 17.0


def test_it_gives_up_after_so_many_attempts_and_never_repeats_a_refusal(served: tuple[str, Answers]) -> None:
    url, answers = served
    answers.append((500, {}, b"secret stack trace"))
    waits: list[float] = []
    with pytest.raises(ServerBusyError, match=r"HTTP 500, 4 times; try again later"):
        client(waits).get(url)
    assert len([wait for wait in waits if wait > 0.1]) == 3
    answers[0] = (404, {}, b"nothing here")
    waits.clear()
    with pytest.raises(RefusedError, match=r"HTTP 404 \(nothing here\)") as error:
        client(waits).get(url)
    assert error.value.status == 404 and not [wait for wait in waits if wait > 0.1]


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"<html></html>", "not JSON"), (b"[1]", "not a JSON object"), (b"", "not JSON")],
)
def test_answers_that_are_no_json_object(served: tuple[str, Answers], body: bytes, message: str) -> None:
    url, answers = served
    answers.append((200, {"content-type": "text/html"}, body))
    with pytest.raises(SourceError, match=message):
        client([]).get(url)


def test_redacted() -> None:
    assert redacted("key=abc and abc", ["abc", ""]) == "key=*** and ***"
