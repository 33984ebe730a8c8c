"""docker-compose.yml kept honest without Docker.

Each service's own command is run natively, with its environment and its health check, host names and ports
mapped to loopback. MinIO cannot be installed here: moto's S3 server stands in for it.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.servers import S3Server, free_port, stop

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

SECRETS = {"POSTGRES_PASSWORD": "not-asked-for", "S3_USER": "testing", "S3_PASSWORD": "testing"}


@pytest.fixture(scope="module")
def compose(project: Path) -> dict[str, Any]:
    return yaml.safe_load((project / "docker-compose.yml").read_text())


def substitute(text: str) -> str:
    """Compose's `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.group(1), match.group(2), match.group(3)
        if name in SECRETS:
            return SECRETS[name]
        assert operator == ":-", f"{name} has neither a value nor a default"
        return rest

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def test_every_variable_of_the_compose_file_is_in_the_example(project: Path) -> None:
    named = set(re.findall(r"\$\{(\w+):?\??", (project / "docker-compose.yml").read_text()))
    example = (project / "deployments" / "compose.env.example").read_text()
    offered = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert named - {"CLOUD_VERSION"} == offered
    secrets = re.findall(r"^(?:POSTGRES_PASSWORD|S3_USER|S3_PASSWORD)=(.*)$", example, re.MULTILINE)
    assert secrets == ["", "", ""]


def test_services_wait_for_healthy_ones_and_publish_on_loopback_only(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {
        "postgres",
        "s3",
        "prefect-server",
        "prefect-worker",
        "mlflow",
        "dask-scheduler",
        "dask-worker",
    } <= set(services)
    for name, service in services.items():
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), f"{name} publishes {published}"
        for needed, condition in service.get("depends_on", {}).items():
            state = condition["condition"]
            assert state in ("service_healthy", "service_completed_successfully")
            assert (state == "service_healthy") == ("healthcheck" in services[needed]), (name, needed)


def test_files_that_services_mount_and_build_from_are_there(project: Path, compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            assert (project / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (project / volume.split(":")[0]).is_file()


def test_dask_services_run_with_the_settings_of_our_own_clusters(compose: dict[str, Any]) -> None:
    import dask

    from tasks.cluster import _DASK

    for name in ("dask-scheduler", "dask-worker"):
        environment = compose["services"][name]["environment"]
        found = dask.config.collect_env(environment)
        for key, value in _DASK.items():
            if key == "distributed.nanny.pre-spawn-environ":
                expected = {name: text for name, text in value.items() if name.endswith("_THREADS")}
                assert expected.items() <= environment.items(), name
                continue
            assert dask.config.get(key, config=found) == value, (name, key)


@dataclass
class Stack:
    """The services as native processes; `ports` maps `service:port` inside compose to loopback."""

    services: dict[str, Any]
    ports: dict[str, int]
    logs: Path
    project: Path

    def local(self, name: str, text: str) -> str:
        """`text` of service `name` with compose's addresses replaced by loopback ones."""
        text = substitute(text)
        for address, port in self.ports.items():
            service, _, inner = address.partition(":")
            text = re.sub(rf"(?<=//){service}:{inner}\b|(?<=@){service}:{inner}\b", f"127.0.0.1:{port}", text)
            if service == name:
                text = re.sub(rf"(?<=127\.0\.0\.1:){inner}\b", str(port), text)
                text = re.sub(rf"^(--[a-z-]+=)?(:?){inner}$", rf"\g<1>\g<2>{port}", text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def environment(self, name: str, home: Path) -> dict[str, str]:
        inherited = {key: os.environ[key] for key in ("LANG", "HOME") if key in os.environ}
        own = {
            key: self.local(name, str(value))
            for key, value in self.services[name].get("environment", {}).items()
        }
        path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        quiet = {"PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
        return (
            inherited
            | path
            | quiet
            | own
            | ({"CLOUD_RUNS": str(home / "runs")} if "CLOUD_RUNS" in own else {})
        )

    def command(self, name: str) -> list[str]:
        return [self.local(name, part) for part in self.services[name]["command"]]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        home = self.logs / name
        home.mkdir()
        with (self.logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                self.command(name),
                env=self.environment(name, home),
                cwd=self.project,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self, name: str) -> str:
        home = self.logs / name
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            self.command(name),
            env=self.environment(name, home),
            cwd=self.project,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def healthy(self, name: str, process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
        kind, *test = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        check = [self.local(name, part) for part in test]
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        deadline = time.monotonic() + timeout_s
        while subprocess.run(check, cwd=self.project, env=environment, capture_output=True).returncode:
            log = (self.logs / f"{name}.log").read_text()[-3000:]
            assert process.poll() is None, f"{name} ended: {log}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {log}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def stack(
    project: Path,
    compose: dict[str, Any],
    postgres: str,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """All services, started in the order that `depends_on` gives, each healthy by its own check."""
    postgres_port = int(postgres.rpartition(":")[2])
    ports = {
        "postgres:5432": postgres_port,
        "s3:9000": int(s3_server.endpoint.rpartition(":")[2]),
        "prefect-server:4200": free_port(),
        "prefect-worker:8080": free_port(),
        "mlflow:5000": free_port(),
        "dask-scheduler:8786": free_port(),
        "dask-scheduler:8787": free_port(),
        "dask-worker:8788": free_port(),
    }
    for database in ("prefect", "mlflow"):
        subprocess.run(
            ["createdb", "-h", "127.0.0.1", "-p", str(postgres_port), "-U", "cloud", database], check=True
        )
    running = Stack(compose["services"], ports, tmp_path_factory.mktemp("stack"), project)
    with ExitStack() as cleanup:
        running.run("buckets")
        for name in ("prefect-server", "mlflow", "dask-scheduler"):
            process = running.start(name)
            cleanup.callback(stop, process)
            running.healthy(name, process)
        running.run("deploy")
        for name in ("dask-worker", "prefect-worker"):
            process = running.start(name)
            cleanup.callback(stop, process)
            running.healthy(name, process)
        yield running


@pytest.mark.slow
def test_mlflow_answers_to_the_name_it_has_inside_compose(stack: Stack) -> None:
    port = stack.ports["mlflow:5000"]
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=5"
    assert httpx.get(address, headers={"Host": "mlflow:5000"}).status_code == 200
    assert httpx.get(address, headers={"Host": "elsewhere.example:5000"}).status_code == 403


def deployments(project: Path) -> list[dict[str, Any]]:
    return yaml.safe_load((project / "deployments" / "prefect.yaml").read_text())["deployments"]


@pytest.mark.slow
def test_every_flow_is_deployed_on_the_server(stack: Stack, project: Path) -> None:
    api = f"http://127.0.0.1:{stack.ports['prefect-server:4200']}/api"
    there = {item["entrypoint"]: item for item in httpx.post(f"{api}/deployments/filter", json={}).json()}
    assert set(there) == {item["entrypoint"] for item in deployments(project)}
    encode = there["flows/encode.py:encode"]
    assert [schedule["schedule"]["cron"] for schedule in encode["schedules"]] == ["0 2 * * *"]
    assert encode["global_concurrency_limit"]["limit"] == 2
    waiting = {
        item["id"] for item in there.values() if any(schedule["active"] for schedule in item["schedules"])
    }
    assert len(waiting) == 2
    deadline = time.monotonic() + 60
    while waiting and time.monotonic() < deadline:
        time.sleep(1)
        for deployment in tuple(waiting):
            asked = {"deployments": {"id": {"any_": [deployment]}}, "limit": 1}
            if any(run["auto_scheduled"] for run in httpx.post(f"{api}/flow_runs/filter", json=asked).json()):
                waiting.remove(deployment)
    assert not waiting, "schedules that the server does not follow"
    automations = httpx.post(f"{api}/automations/filter", json={}).json()
    assert any("without heartbeats" in item["name"] for item in automations)


def test_parameters_of_every_deployment_are_a_valid_configuration(project: Path) -> None:
    import importlib
    import inspect

    for item in deployments(project):
        path, name = item["entrypoint"].split(":")
        flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        if "parameters" in item:
            (parameter,) = inspect.signature(flow.fn).parameters.values()
            parameter.annotation.model_validate(item["parameters"]["config"])


@pytest.mark.slow
def test_a_worker_runs_a_deployment_on_dask_into_s3(
    stack: Stack, s3: S3Server, project: Path, tmp_path: Path
) -> None:
    import zipfile

    from cloud_core.lake.table import Table

    archive = tmp_path / "few.zip"
    with (
        zipfile.ZipFile(project / "flows" / "demo_data" / "structures.zip") as whole,
        zipfile.ZipFile(archive, "w") as part,
    ):
        for name in [*sorted(whole.namelist())[:40], "broken-no-atoms.cif"]:
            if name not in part.namelist():
                part.writestr(name, whole.read(name))
    api = f"http://127.0.0.1:{stack.ports['prefect-server:4200']}/api"
    deployment = httpx.get(f"{api}/deployments/name/encode/encode").json()
    created = httpx.post(
        f"{api}/deployments/{deployment['id']}/create_flow_run",
        json={"parameters": {"config": {"source": str(archive)}}, "state": {"type": "SCHEDULED"}},
    )
    run_id = created.raise_for_status().json()["id"]
    deadline = time.monotonic() + 240
    state = ""
    while state not in ("COMPLETED", "FAILED", "CRASHED") and time.monotonic() < deadline:
        time.sleep(1)
        state = httpx.get(f"{api}/flow_runs/{run_id}").json()["state_type"]
    logs = httpx.post(f"{api}/logs/filter", json={"logs": {"flow_run_id": {"any_": [run_id]}}}).json()
    assert state == "COMPLETED", [line["message"] for line in logs]
    table = Table.open("s3://lake/structures")
    ids = table.scope(["structure_id"])["structure_id"].to_pylist()
    refused = table.quarantine(["structure_id"])["structure_id"].to_pylist()
    assert {*ids, *refused} == {f"few:{name}" for name in zipfile.ZipFile(archive).namelist()}
    assert "few:broken-no-atoms.cif" in refused
    artifacts = httpx.post(f"{api}/artifacts/latest/filter", json={}).json()
    assert any(item["key"] == "quarantine-few" for item in artifacts)
