"""A local server with the routes of the Materials Project's API that mp-api's summary search uses.

The service is out of reach of the tests. The routes, parameters and answers are those that mp-api 0.46
sends and reads; the structures in the documents are the Materials Project's own.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "0123456789abcdefghijklmnopqrstuv"


@dataclass
class MaterialsProject:
    """What the server knows, and what was asked of it."""

    documents: list[dict[str, Any]]
    db_version: str = "2025.09.25"
    fault: Callable[[str, int], tuple[int, str] | None] = lambda path, number: None
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)
    longest: int = 8000  # characters of an address; a longer one gets HTTP 414

    def summary(self, query: dict[str, str]) -> dict[str, Any]:
        found = [
            d for d in self.documents if str(d["deprecated"]).lower() == query.get("deprecated", "").lower()
        ]
        if "material_ids" in query:
            wanted = set(query["material_ids"].split(","))
            found = [d for d in self.documents if d["material_id"] in wanted]
        if "batch_id_not_eq" in query:
            found = [d for d in found if d["builder_meta"]["batch_id"] != query["batch_id_not_eq"]]
        if "batch_id" in query:
            found = [d for d in found if d["builder_meta"]["batch_id"] == query["batch_id"]]
        if "nelements_max" in query:
            found = [d for d in found if d["nelements"] <= int(query["nelements_max"])]
        order = query.get("_sort_fields", "material_id")
        found.sort(key=lambda d: d[order.lstrip("-")], reverse=order.startswith("-"))
        size = int(query.get("_per_page") or query.get("_limit") or 100)
        start = (int(query["_page"]) - 1) * size if "_page" in query else int(query.get("_skip") or 0)
        fields = query.get("_fields", "material_id").split(",")
        page = [{name: d[name] for name in fields if name in d} for d in found[start : start + size]]
        return {"data": page, "meta": {"total_doc": len(found)}}


@contextmanager
def materials_project(documents: list[dict[str, Any]]) -> Iterator[MaterialsProject]:
    state = MaterialsProject(documents)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            number = len(state.requests)
            state.requests.append({"path": parts.path} | query)
            fault = state.fault(self.path, number)
            if fault is not None:
                self.answer(*fault)
            elif parts.path == "/heartbeat":
                info = {
                    "version": "0.86.3",
                    "db_version": state.db_version,
                    "access_controlled_batch_ids": [],
                }
                self.answer(200, json.dumps(info))
            elif self.headers.get("x-api-key") != KEY:
                self.answer(401, json.dumps({"detail": f"no such key: {self.headers.get('x-api-key')}"}))
            elif len(self.path) > state.longest:
                self.answer(414, json.dumps({"detail": "URI too long"}))
            elif parts.path == "/materials/summary/":
                self.answer(200, json.dumps(state.summary(query)))
            else:
                self.answer(404, json.dumps({"detail": "Not Found"}))

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json" if text.startswith("{") else "text/html")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

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
