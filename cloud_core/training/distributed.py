"""One process or many: who this rank is, sums over ranks, stopping together, and how the model is spread."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

LAUNCHER_VARIABLE = "CLOUD_LAUNCHER_PID"  # the process that started torchrun on this machine


@dataclass(frozen=True)
class Ranks:
    """This process among all of the job."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over all ranks, on every rank."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the process group that torchrun describes in the environment; alone without one.

    GPUs talk through NCCL, CPUs through gloo, and so do small control messages of GPU ranks.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(rank, world, device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, world, device)
    finally:
        dist.destroy_process_group()


class StopRequest:
    """SIGTERM, SIGINT, or the death of who started us; all ranks act on it at the end of the same step."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.asked = False
        self.parent = os.getppid()
        self.launcher = int(os.environ.get(LAUNCHER_VARIABLE, "0"))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def _orphaned(self) -> bool:
        if os.getppid() != self.parent:
            return True
        if self.launcher:
            try:
                os.kill(self.launcher, 0)
            except ProcessLookupError:
                return True
        return False

    def agreed(self) -> bool:
        """True on every rank once it is true on one."""
        asked = torch.tensor([float(self.asked or self._orphaned())])  # on the CPU: no wait for a GPU
        return bool(self.ranks.sum(asked).item())


Strategy = Literal["ddp", "fsdp"]


def spread(module: nn.Module, layers: nn.ModuleList, ranks: Ranks, strategy: Strategy) -> nn.Module:
    """Replicate `module` (DDP) or shard it by layers (FSDP2) over the ranks; gradients come out averaged."""
    module.to(ranks.device)
    if ranks.world == 1:
        return module
    if strategy == "fsdp":
        mesh = dist.device_mesh.init_device_mesh(ranks.device.type, (ranks.world,))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # The root would stay whole after a forward pass without a backward one, and hide its shards.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        return module
    device_ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


@contextmanager
def gradient_sync(module: nn.Module, last: bool) -> Iterator[None]:
    """Gradients travel in the backward pass of the last micro-batch only."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        yield
    elif isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every rank has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, on the device of `model` and sharded as it is."""
    tensor = tensor.to(model.device)
    if isinstance(model, DTensor):
        return distribute_tensor(tensor, model.device_mesh, model.placements)
    return tensor
