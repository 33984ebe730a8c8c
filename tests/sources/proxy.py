"""A small HTTP proxy that injects faults: what a test tells it to answer instead of the server behind it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

Fault = tuple[int, str, bytes]  # status, content type, body


@dataclass
class Proxy:
    """`fault(path, number)` is asked for each request (numbered from 0); None lets it pass."""

    upstream: str
    fault: Callable[[str, int], Fault | None] = lambda path, number: None
    url: str = ""
    requests: list[str] = field(default_factory=list)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    state = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = len(state.requests)
            state.requests.append(self.path)
            answer = state.fault(self.path, number)
            if answer is None:
                response = httpx.get(state.upstream + self.path, timeout=30)
                answer = (response.status_code, response.headers["content-type"], response.content)
            status, kind, body = answer
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
