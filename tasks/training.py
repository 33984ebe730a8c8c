"""Distributed training as a Prefect task: torchrun as a child that this process owns.

The child's metrics.jsonl is relayed to MLflow while it trains; if MLflow is away, training goes on and the
rest follows when it is back. When the task is cancelled or fails, every rank gets SIGTERM, writes a
checkpoint and leaves; after `grace_s` what is left is killed. Should this process itself be killed, the ranks
notice at their next step and do the same.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from cloud_core.models.folder import CONFIG, read_config
from cloud_core.models.geometry import Geometry
from cloud_core.training.corpus import CorpusConfig, split_corpus
from cloud_core.training.job import RESULT
from cloud_core.training.launch import LOG, Launch, TrainingError, last_lines, launched
from cloud_core.training.progress import METRICS, read_lines
from tasks.reporting import Progress
from tasks.tracking import Run, mlflow_client

POLL_S = 0.5
RETRY_S = 15.0  # between attempts to reach an MLflow server that is away


class Relay:
    """Sends the complete lines of a metrics file to an MLflow run, each once."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run = path, run
        self.sent: set[tuple[int, str]] = set()
        self.read = (0, 0)  # inode, bytes
        self.last: dict[str, float] = {}
        self.step = 0
        self.retry_at = 0.0

    def pump(self) -> None:
        """Send what is new.

        Raises:
            MlflowException, OSError: MLflow is away; what was not sent is sent by a later call.
        """
        if not self.path.exists():
            return
        status = self.path.stat()
        inode, start = self.read
        if status.st_ino != inode:  # a restart wrote the file anew
            start = 0
        with self.path.open("rb") as file:
            file.seek(start)
            end = start + file.read().rfind(b"\n") + 1
        for step, metrics in read_lines(self.path, start):
            self.step, self.last = max(self.step, step), self.last | metrics
            # Steps done again have the same numbers, and are sent already.
            new = {key: value for key, value in metrics.items() if (step, key) not in self.sent}
            if new:
                self.run.log_metrics(new, step)
                self.sent |= {(step, key) for key in new}
        self.read = (status.st_ino, end)

    def try_pump(self) -> str | None:
        """Like `pump`, but an MLflow that is away is reported, and left alone for a while."""
        if time.monotonic() < self.retry_at:
            return None
        try:
            self.pump()
        except (MlflowException, OSError) as error:
            self.retry_at = time.monotonic() + RETRY_S
            return " ".join(str(error).split())[:200]
        return None


def read_result(path: Path, corpus: str) -> dict[str, Any] | None:
    """What a finished job left; None where it, or the model that it names, is not there.

    Raises:
        TrainingError: the model was trained on another corpus than that of digest `corpus`.
    """
    if not path.is_file():
        return None
    result = dict(json.loads(path.read_text(encoding="utf-8")))
    if not (Path(result["model"]) / CONFIG).is_file():
        return None
    if read_config(result["model"])["metadata"]["corpus"] != corpus:
        raise TrainingError(
            f"{result['model']}: finished on other strings than the table holds now, made anew at "
            "the same address and version; give the run another name"
        )
    return result


def run_of(run_id: str) -> Run:
    client = mlflow_client()
    return Run(run_id, str(client.get_run(run_id).info.experiment_id), client)


def train(launch: Launch, module: str, job: str, log: Path, follow: Callable[[], None]) -> int:
    """Do a job in ranks of its own, with `follow` called meanwhile and once at the end; their exit status."""
    with launched(launch, module, [job], log) as process:
        while process.poll() is None:
            follow()
            time.sleep(POLL_S)
    follow()
    return int(process.returncode)


@task(cache_policy=NO_CACHE, persist_result=False)
def prepare_corpus(
    config: CorpusConfig, encoder: Geometry, files: Sequence[str], folder: str
) -> dict[str, Any]:
    """Tokenize and split once, before the ranks start; see `split_corpus`."""
    return split_corpus(config, encoder, files, folder)


@task(cache_policy=NO_CACHE, cache_result_in_memory=False, persist_result=False)
def torchrun(folder: str, job: str, launch: Launch, run_id: str, steps: int, corpus: str) -> dict[str, Any]:
    """Train the job in file `job`, whose folder is `folder`, to its end; return its result.json.

    `corpus` is the digest of the training strings.

    A job that is finished already, and whose model is there, is only reported.

    Raises:
        TrainingError: the ranks failed, or were stopped by somebody else; or what is there was trained on
            another corpus.
    """
    logger = get_run_logger()
    log, result = Path(folder) / LOG, Path(folder) / RESULT
    relay = Relay(Path(folder) / METRICS, run_of(run_id))
    finished = read_result(result, corpus)
    if finished is not None:
        relay.pump()
        return finished
    with Progress(steps, "pretrain", unit="steps") as progress:

        def follow() -> None:
            failure = relay.try_pump()
            if failure is not None:
                logger.warning(
                    "MLflow is away (%s); training goes on, metrics wait in %s", failure, relay.path
                )
            if relay.step > progress.done:
                loss = relay.last.get("train/loss", float("nan"))
                progress.advance(relay.step - progress.done, loss=f"{loss:.3f}")

        status = train(launch, "cloud_core.training.pretrain", job, log, follow)
    finished = read_result(result, corpus)
    if status != 0 or finished is None:
        what = f"failed with status {status}" if status else "was stopped before its end"
        raise TrainingError(
            f"{folder}: training {what}; run it again to go on from its checkpoint. {LOG}: {last_lines(log)}"
        )
    relay.retry_at = 0.0
    failure = relay.try_pump()
    if failure is not None:
        logger.warning("MLflow is away (%s): the last metrics are in %s only", failure, relay.path)
    return finished
