"""torchrun as a child process: its command line, its ranks' environment, and their end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from pydantic import BaseModel, ConfigDict, Field

from cloud_core.errors import CloudError
from cloud_core.training.distributed import LAUNCHER_VARIABLE

LOG = "torchrun.log"
# Threads that spin at a barrier take a busy machine's cores from those that they wait for.
SLEEPING_THREADS = {"GOMP_SPINCOUNT": "1000"}
# torchrun 2.13 hands restarted ranks the store of the dead ones, and gloo finds their addresses in it.
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class TrainingError(CloudError):
    """A training job that ended without a result; names its log and the last lines of it."""


class Launch(BaseModel):
    """How torchrun starts the ranks; see docs/training.md for several nodes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: int = Field(
        default=1, ge=1, description="ranks on this node: one for each GPU, or for a few CPU cores"
    )
    nodes: str = Field(
        default="1", pattern=r"^\d+(:\d+)?$", description="number of nodes; '1:4' is elastic between 1 and 4"
    )
    rendezvous: str | None = Field(
        default=None, description="host:port where the nodes meet; needed for more than one"
    )
    job_id: str = Field(default="cloud", description="name of the rendezvous, the same on all nodes")
    max_restarts: int = Field(
        default=3, ge=0, description="times the ranks start again after one of them died"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per rank; default: the machine's cores divided by the ranks",
    )
    grace_s: float = Field(
        default=25.0,
        gt=0,
        description="seconds for the ranks' last checkpoint; Prefect's workers grant 30 themselves",
    )

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line: the same on every node."""
        if self.nodes != "1" and self.rendezvous is None:
            raise ValueError(f"nodes: {self.nodes} needs rendezvous, the host:port where the nodes meet")
        meeting = (
            ["--rdzv-backend", "c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-id", self.job_id]
            if self.rendezvous
            else ["--standalone"]
        )
        return [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", self.nodes, "--nproc-per-node", str(self.processes)),
            *("--max-restarts", str(self.max_restarts), "--shutdown-timeout", str(int(self.grace_s))),
            *meeting,
            *("-m", module, *arguments),
        ]

    def environment(self) -> dict[str, str]:
        threads = self.threads or max(1, (os.cpu_count() or 1) // self.processes)
        launcher = {"OMP_NUM_THREADS": str(threads), LAUNCHER_VARIABLE: str(os.getpid())}
        # Ranks run the code of their launcher, and no module of the folder that somebody stands in.
        here = str(Path(__file__).parents[2])
        paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        code = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}
        return SLEEPING_THREADS | os.environ | FRESH_STORE | launcher | code


class FitLaunch(Launch):
    """How the ranks of one fit are started, and the GPUs that they may see."""

    devices: str | None = Field(None, description="CUDA_VISIBLE_DEVICES of this fit, e.g. '0,1'")

    def environment(self) -> dict[str, str]:
        seen = {} if self.devices is None else {"CUDA_VISIBLE_DEVICES": self.devices}
        return super().environment() | seen


@contextmanager
def launched(
    launch: Launch, module: str, arguments: list[str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun in a session of its own, with its output in `log`; no rank outlives the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            launch.command(module, *arguments),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=launch.environment(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process, launch.grace_s)


def stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to every rank, then SIGKILL to what is left after `grace_s`; nothing where all have ended."""
    family = _descendants(process)
    if process.poll() is None:
        # The agent would pass it on, but kill them after a grace of its own; it ends when its ranks do.
        for rank in family:
            try:
                rank.terminate()
            except psutil.NoSuchProcess:
                continue
        if not family:
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace_s if process.poll() is None else 0)
    if not alive:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    if process.poll() is None:
        # It starts new ranks in place of those that ended: of ones that SIGTERM met before they could catch
        # it, for one. Standing still it starts no more while they are counted, and it is killed before them.
        process.send_signal(signal.SIGSTOP)
        alive += _descendants(process)
        process.kill()
    process.wait()
    for rank in alive:
        try:
            rank.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def last_lines(log: Path, n: int = 15) -> str:
    """The end of a log, in one line."""
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-n:])


def devices_of(slot: int, processes: int) -> str | None:
    """GPUs of the ranks of one of several fits side by side: neighbours, taken in turn from those that this
    process may see.

    Raises:
        TrainingError: a fit has more ranks than there are GPUs.
    """
    count = torch.cuda.device_count()
    if not count:
        return None
    if processes > count:
        raise TrainingError(
            f"launch.processes {processes}: each rank takes a GPU of its own, and {count} can be seen here; "
            "set fewer processes"
        )
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(count)]
    return ",".join(names[(slot * processes + rank) % count] for rank in range(processes))
