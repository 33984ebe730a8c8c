"""Where the work runs: Dask on this machine, at an address, on Slurm or on Kubernetes."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.errors import CloudError

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.deploy import Cluster


class ClusterError(CloudError):
    """A cluster that cannot be had. The message names it and the remedy."""


class ClusterConfig(BaseModel):
    """A Dask cluster. Slurm and Kubernetes scale between `minimum` and `workers`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local", "address", "slurm", "kubernetes", "none"] = Field(
        default="local",
        description="local: processes of this machine; address: a scheduler that runs already; none: this "
        "process alone, for some thousands of structures",
    )
    workers: int = Field(
        default=2, ge=1, description="worker processes, one thread each; on Slurm and Kubernetes at most"
    )
    minimum: int = Field(
        default=0, ge=0, description="Slurm and Kubernetes: workers that are kept even when idle"
    )
    memory_gb: float = Field(
        default=2.0, gt=0, description="memory of a worker, GB; one that passes it is restarted"
    )
    address: str | None = Field(
        default=None, description="kind address: the scheduler, e.g. tcp://scheduler:8786"
    )
    options: dict[str, Any] = Field(
        default={},
        description="Slurm, Kubernetes: further arguments of dask_jobqueue.SLURMCluster (queue, account, "
        "walltime, …) or dask_kubernetes.operator.KubeCluster (image, namespace, …)",
    )
    start_timeout_s: float = Field(default=60.0, gt=0, description="seconds to wait for the first worker")

    @model_validator(mode="after")
    def _address_is_named(self) -> "ClusterConfig":
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("`address` goes with kind: address, and only with it")
        if self.options and self.kind not in ("slurm", "kubernetes"):
            raise ValueError("`options` are for kind: slurm and kubernetes")
        return self


def default_cluster() -> ClusterConfig:
    """The scheduler that `$CLOUD_DASK_ADDRESS` names, else processes of this machine."""
    address = os.environ.get("CLOUD_DASK_ADDRESS")
    return ClusterConfig(kind="address", address=address) if address else ClusterConfig()


_LOOK_S = 5.0
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",  # no module is taken from the folder that somebody stands in
    "DASK_LOGGING__DISTRIBUTED": "error",  # a worker would tell each connection it makes
}
_DASK = {
    # A chunk that ended its worker is tried anew, isolated, and so is the one that waited there.
    "distributed.scheduler.allowed-failures": 0,
    # By default each process looks at itself a hundred times a second: 5 % of a small machine.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.comm.timeouts.connect": "30s",
    "distributed.deploy.lost-worker-timeout": "30s",  # a busy machine needs a while to start another
    "distributed.nanny.pre-spawn-environ": _ENVIRONMENT,
}


@contextmanager
def cluster(config: ClusterConfig) -> Iterator["Client"]:
    """A Dask client with at least one worker; what was started is stopped at the end.

    Raises:
        ClusterError: no scheduler at the address, no worker in time, or the back end is not installed.
    """
    import dask
    from distributed import Client

    # Prefect lifts the level of every logger; Dask would tell each connection it makes.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with dask.config.set(_DASK):
        if config.kind == "address":
            try:
                client = Client(config.address, timeout=config.start_timeout_s, set_as_default=False)
            except OSError as error:
                raise ClusterError(
                    f"{config.address}: no Dask scheduler answers there; start one (`dask scheduler`), "
                    "or check the address"
                ) from error
            with client:
                _wait_for_worker(client, config)
                yield client
            return
        with _start(config) as started, Client(started, set_as_default=False) as client:
            _wait_for_worker(client, config)
            yield client


class LazyCluster:
    """A cluster that starts when its client is first asked for: a run with nothing to do starts none."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._client: Client | None = None
        self.seconds_starting = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def submit(self, *arguments: Any, **options: Any) -> "Future[Any]":
        """`Client.submit` of the cluster."""
        return self.client.submit(*arguments, **options)

    @property
    def client(self) -> "Client":
        with self._lock:
            if self._client is None:
                started = time.monotonic()
                self._client = self._stack.enter_context(cluster(self.config))
                self.seconds_starting = time.monotonic() - started
            return self._client


def _start(config: ClusterConfig) -> "Cluster":
    if config.kind == "local":
        from distributed import LocalCluster
        from tornado.ioloop import PeriodicCallback

        local = LocalCluster(
            n_workers=config.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=f"{config.memory_gb}GB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},  # Prefect's pages show the progress
            silence_logs=40,
        )
        # Dask gives a worker up that dies while it starts, or takes long to: have another in its place.
        keep = PeriodicCallback(lambda: local.scale(config.workers), _LOOK_S * 1000)
        local.periodic_callbacks["keep workers"] = keep
        assert local.loop is not None
        local.loop.add_callback(keep.start)
        return local
    if config.kind == "slurm":
        try:
            from dask_jobqueue import SLURMCluster
        except ImportError as error:
            raise ClusterError(
                "kind: slurm needs dask-jobqueue; install it: pip install 'cloud-pipeline[slurm]'"
            ) from error
        defaults: dict[str, Any] = {
            "cores": 1,
            "processes": 1,
            "memory": f"{config.memory_gb}GB",
            "job_script_prologue": [f"export {name}={value}" for name, value in _ENVIRONMENT.items()],
        }
        started = SLURMCluster(**(defaults | config.options))
    else:
        try:
            from dask_kubernetes.operator import KubeCluster
        except ImportError as error:
            raise ClusterError(
                "kind: kubernetes needs dask-kubernetes; install it: pip install 'cloud-pipeline[kubernetes]'"
            ) from error
        started = KubeCluster(**(_pods(config) | config.options))
    started.adapt(minimum=config.minimum, maximum=config.workers)
    return started


def _pods(config: ClusterConfig) -> dict[str, Any]:
    """Arguments of KubeCluster: pods of one thread, which know what `_DASK` sets in processes of ours."""
    size = {"cpu": "1", "memory": f"{config.memory_gb}G"}
    return {
        "name": f"cloud-{uuid4().hex[:8]}",
        "n_workers": config.minimum,
        "env": _ENVIRONMENT | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
        "worker_command": ["dask-worker", "--nthreads", "1"],
        "resources": {"requests": size, "limits": {"memory": size["memory"]}},
    }


def _wait_for_worker(client: "Client", config: ClusterConfig) -> None:
    # Without a minimum, an adaptive cluster starts workers when there is work.
    wanted = {"local": config.workers, "address": 1}.get(config.kind, min(1, config.minimum))
    if not wanted:
        return
    try:
        client.wait_for_workers(wanted, timeout=config.start_timeout_s)
    except TimeoutError as error:
        raise ClusterError(
            f"{config.address or config.kind}: no Dask worker within {config.start_timeout_s:.0f} s; start "
            "workers (`dask worker ADDRESS`), look at the queue, or raise `start_timeout_s`"
        ) from error
