"""Ranks forked from a process that has imported torch: starts of their own take seconds each."""

import multiprocessing
from multiprocessing.process import BaseProcess

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["cloud_core.training.pretrain", "torch._dynamo"])  # optimisers import that

# One process group for all jobs: gloo's own thread has crashed while a second one was being made.
# As text, because the server does not find modules of the tests.
_WORK = """
import os
from cloud_core.training.distributed import ranks
from cloud_core.training.job import PretrainJob
from cloud_core.training.pretrain import train
os.environ.update(environment)
with ranks() as group:
    for path in jobs:
        train(PretrainJob.read(path), group)
"""


def start(environment: dict[str, str], *jobs: str) -> BaseProcess:
    """A rank that does the jobs of these files one after the other."""
    process = _SERVER.Process(
        target=exec, args=(_WORK, {"environment": environment, "jobs": jobs}), daemon=True
    )
    process.start()
    return process
