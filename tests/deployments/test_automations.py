"""A dead worker's run is marked Crashed: a real server, a real process, SIGKILL."""

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client

from deployments.automations import NAME, crash_zombies

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SLEEPER = """
import time
from prefect import flow

@flow
def sleeper():
    time.sleep(600)
"""


def wait_for(state: str, flow_run_id: UUID, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            current = client.read_flow_run(flow_run_id).state_type
            if current is not None and current.value == state:
                return current.value
            time.sleep(0.5)
    return str(current)


@pytest.mark.slow
def test_a_killed_run_is_marked_crashed(prefect_server: str, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    # one heartbeat comes at the start, the next 30 s later; the kill comes in between
    crash_zombies(within_s=12)
    crash_zombies(within_s=12)
    with get_client(sync_client=True) as client:
        assert len(client.read_automations_by_name(NAME)) == 1
    environment = os.environ | {"PREFECT_API_URL": prefect_server, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    prefect = [sys.executable, "-m", "prefect"]

    def run_prefect(*arguments: str) -> None:
        done = subprocess.run(
            [*prefect, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run_prefect("work-pool", "create", "zombies", "--type", "process", "--overwrite")
    run_prefect("--no-prompt", "deploy", "sleeper.py:sleeper", "--name", "sleeper", "--pool", "zombies")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("sleeper/sleeper")
        run = client.create_flow_run_from_deployment(deployment.id)
    worker = subprocess.Popen(
        [*prefect, "worker", "start", "--pool", "zombies", "--run-once"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_for("RUNNING", run.id, 90) == "RUNNING"
        time.sleep(4)  # the first heartbeat is on its way
    finally:
        # the flow runs in a session of its own: an OOM killer or a lost machine takes both
        for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
            process.kill()
        worker.wait()
    assert wait_for("CRASHED", run.id, 60) == "CRASHED"
