"""Where the work runs, and what is said where it cannot."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import LocalCluster
from pydantic import ValidationError

from tasks.cluster import _DASK, ClusterConfig, ClusterError, LazyCluster, cluster


def test_local_workers_have_one_thread_and_one_task_at_a_time():
    with cluster(ClusterConfig(workers=1, memory_gb=1)) as client:
        (worker,) = client.scheduler_info()["workers"].values()
        assert worker["nthreads"] == 1 and worker["memory_limit"] == 10**9
        assert worker["host"] == "127.0.0.1"
        assert client.submit(sum, [1, 2]).result() == 3


def test_a_worker_that_dask_has_given_up_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it is killed while it starts: its nanny ends as well, and the work waits for another."""
    monkeypatch.setitem(_DASK, "distributed.deploy.lost-worker-timeout", "1s")
    with cluster(ClusterConfig(workers=1, memory_gb=1)) as client:
        local = client.cluster
        (nanny,) = local.workers.values()
        local.sync(nanny.close)
        assert client.submit(sum, [1, 2]).result(timeout=150) == 3
        assert list(local.workers.values()) != [nanny]


def test_a_lazy_cluster_starts_once_and_stops(recwarn: pytest.WarningsRecorder):
    with LazyCluster(ClusterConfig(workers=1)) as lazy:
        assert lazy.seconds_starting == 0
        assert lazy.submit(sum, [1, 2]).result() == 3
        client = lazy.client
        assert lazy.client is client and lazy.seconds_starting > 0
    assert client.status == "closed"


def test_an_address_without_a_scheduler_is_named():
    config = ClusterConfig(kind="address", address="tcp://127.0.0.1:1", start_timeout_s=1)
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:1: no Dask scheduler answers"), cluster(config):
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "address"}, "goes with kind: address"),
        ({"address": "tcp://here:1"}, "goes with kind: address"),
        ({"options": {"queue": "cpu"}}, "slurm and kubernetes"),
        ({"wokers": 2}, "wokers"),
        ({"workers": 0}, "workers"),
    ],
)
def test_a_wrong_configuration_is_named(values: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        ClusterConfig.model_validate(values)


def test_workers_come_as_slurm_jobs_when_there_is_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """dask-jobqueue's own job script, run by a stand-in for `sbatch` (there is no Slurm here)."""
    pytest.importorskip("dask_jobqueue")
    programs = {
        "sbatch": f'cp "${{@: -1}}" {tmp_path}/job\nbash {tmp_path}/job >/dev/null 2>&1 &\n'
        'echo "Submitted batch job $!"\n',
        "scancel": 'for job in "$@"; do kill $(pgrep -P $job) $job; done 2>/dev/null\ntrue\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = {"queue": "cpu", "walltime": "00:10:00", "interface": "lo"}
    with cluster(ClusterConfig(kind="slurm", workers=1, memory_gb=1, options=options)) as client:
        assert client.scheduler_info()["workers"] == {}
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
    job = (tmp_path / "job").read_text()
    assert "#SBATCH -p cpu" in job and "export OMP_NUM_THREADS=1" in job


def test_workers_come_as_pods_when_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What KubeCluster is asked for, and adaptive workers, by a stand-in (there is no Kubernetes here)."""
    asked: dict[str, Any] = {}

    class KubeCluster(LocalCluster):
        """Takes what dask-kubernetes' takes; its pods are processes of this machine."""

        def __init__(
            self,
            *,
            name: str,
            namespace: str,
            image: str,
            n_workers: int,
            resources: dict[str, dict[str, str]],
            env: dict[str, str],
            worker_command: list[str],
        ) -> None:
            asked.update(locals())
            super().__init__(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)

    module = ModuleType("dask_kubernetes.operator")
    module.KubeCluster = KubeCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_kubernetes", ModuleType("dask_kubernetes"))
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", module)
    options = {"namespace": "dask", "image": "cloud-pipeline:latest"}
    config = ClusterConfig(kind="kubernetes", workers=1, memory_gb=4, options=options)
    with cluster(config) as client:
        assert client.scheduler_info()["workers"] == {}
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        assert len(client.scheduler_info()["workers"]) == 1
    assert asked["image"] == "cloud-pipeline:latest" and asked["n_workers"] == 0
    assert asked["worker_command"][-2:] == ["--nthreads", "1"]
    assert asked["resources"]["limits"] == {"memory": "4.0G"}
    assert asked["env"]["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "0"


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_a_missing_back_end_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"slurm": "dask_jobqueue", "kubernetes": "dask_kubernetes"}[kind]
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with (
        pytest.raises(ClusterError, match=rf"pip install 'cloud-pipeline\[{kind}\]'"),
        cluster(ClusterConfig.model_validate({"kind": kind})),
    ):
        pass
