"""The Prefect and MLflow pages on what runs with embedded defaults left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from cloud_core.errors import CloudError

LOOPBACK = "127.0.0.1"


def commands(prefect_port: int, mlflow_port: int) -> dict[str, list[str]]:
    """`{address: command line}` of the two servers, both on loopback."""
    from tasks.tracking import tracking_uri

    prefect = ["prefect", "server", "start", "--host", LOOPBACK, "--port", str(prefect_port)]
    mlflow = ["mlflow", "server", "--host", LOOPBACK, "--port", str(mlflow_port), "--workers", "1"]
    mlflow += ["--backend-store-uri", tracking_uri()]
    return {
        f"http://{LOOPBACK}:{prefect_port}": [sys.executable, "-m", *prefect],
        f"http://{LOOPBACK}:{mlflow_port}": [sys.executable, "-m", *mlflow],
    }


def serve(prefect_home: Path, prefect_port: int, mlflow_port: int) -> None:
    """Run both until Ctrl-C.

    Raises:
        CloudError: no run has left anything here yet.
    """
    if not prefect_home.is_dir():
        raise CloudError(f"{prefect_home}: nothing to show yet; run `make demo` first")
    environment = os.environ | {
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_API_URL": f"http://{LOOPBACK}:{prefect_port}/api",
    }
    servers = []
    log = prefect_home / "ui.log"
    with log.open("ab") as output:
        for address, command in commands(prefect_port, mlflow_port).items():
            servers.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            print(f"{command[2]:>8}  {address}")
    print(f"  Ctrl-C stops both; their log is {log}")

    def stop(*_: int | FrameType | None) -> None:
        for server in servers:
            server.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    codes = [server.wait() for server in servers]
    if any(code not in (0, -signal.SIGTERM, -signal.SIGINT) for code in codes):
        raise CloudError(f"a server ended by itself (exit codes {codes}); is its port taken? see {log}")
