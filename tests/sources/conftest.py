"""A real OPTIMADE server (the reference implementation), and a faulty proxy."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, stop, wait_until_healthy
from tests.sources.proxy import Proxy, proxy


def optimade_entries() -> list[dict[str, Any]]:
    """The package's 17 test structures as OPTIMADE entries, all modified in 2019."""
    documents = json.loads((files("optimade.server") / "data" / "test_structures.json").read_text())
    entries = []
    for document in documents:
        attributes = {
            k: v for k, v in document.items() if k not in ("_id", "task_id", "relationships", "chemsys")
        }
        attributes["last_modified"] = document["last_modified"]["$date"]
        attributes["chemical_formula_reduced"] = attributes.pop("pretty_formula")
        entries.append({"id": document["task_id"], "type": "structures", "attributes": attributes})
    return entries


def serve_optimade(
    folder: Path, entries: list[dict[str, Any]], port: int | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """Start the reference server on these entries; returns the process and its address."""
    port = port or free_port()
    lines = [{"x-optimade": {"api_version": "1.2.0"}}]
    for entry in entries:
        stored = copy.deepcopy(entry)
        # the server's storage speaks MongoDB: its own date type, and aliases of the test provider
        stored["attributes"]["last_modified"] = {"$date": entry["attributes"]["last_modified"]}
        stored["attributes"]["task_id"] = entry["id"]
        stored["attributes"]["pretty_formula"] = entry["attributes"]["chemical_formula_reduced"]
        lines.append(stored)
    data = folder / "entries.jsonl"
    data.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    config = {
        "database_backend": "mongomock",
        "insert_test_data": False,
        "insert_from_jsonl": str(data),
        "page_limit_max": 500,
        "provider_fields": {"structures": ["this_provider_field"]},
        "provider": {"prefix": "exmpl", "name": "Example", "description": "test"},
        "length_aliases": {"structures": {"chemsys": "nelements"}},
        "debug": False,
        "log_dir": str(folder),
    }
    (folder / "config.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "uvicorn",
            "optimade.server.main:app",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        env=os.environ | {"OPTIMADE_CONFIG_FILE": str(folder / "config.json")},
        stdout=(folder / "server.log").open("wb"),
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    url = f"http://127.0.0.1:{port}"
    wait_until_healthy(f"{url}/v1/info", process)
    return process, url


@pytest.fixture(scope="session")
def optimade_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, url = serve_optimade(tmp_path_factory.mktemp("optimade"), optimade_entries())
    try:
        yield url
    finally:
        stop(process)


@pytest.fixture
def faulty_optimade(optimade_server: str) -> Iterator[Proxy]:
    with proxy(optimade_server) as state:
        yield state
