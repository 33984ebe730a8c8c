"""Fits and pretraining runs side by side, each in a worker of its own: a study writes jobs, this does them.

    python benchmarks/studies/jobs.py runs/study --gpu 8 --cpu 4 --minutes 9

Reads `jobs.json` below the folder: a list of `Planned`, the most important first. A job waits for the model
that it starts from. What is done is not done again, and what is not done when the time is over is stopped;
`--scale 0.05` does all of it with a twentieth of the epochs, to try it out, in `runs/study/trial`. It needs
torch, numpy, pyarrow and safetensors alone, for a machine that is borrowed and has nothing else.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cloud_core.errors import CloudError
from cloud_core.files import write_json
from cloud_core.training.job import RESULT, FitJob, PretrainJob, from_json

DONE = "seconds.json"


@dataclass(frozen=True)
class Planned:
    """A job with where it runs and whether its model is kept; others leave their predictions."""

    job: FitJob | PretrainJob
    kind: Literal["fit", "pretrain"] = "fit"
    device: str = "gpu"  # or cpu
    keep_model: bool = False

    @property
    def done(self) -> bool:
        return (Path(self.job.folder) / DONE).is_file()

    @property
    def ready(self) -> bool:
        return self.job.start_from is None or Path(self.job.start_from, "config.json").is_file()


def write(folder: Path, planned: Sequence[Planned]) -> None:
    write_json(folder / "jobs.json", [asdict(each) for each in planned])


def read(folder: Path) -> list[Planned]:
    entries = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    kinds: dict[str, Any] = {"fit": FitJob, "pretrain": PretrainJob}
    return [Planned(**entry | {"job": from_json(kinds[entry["kind"]], entry["job"])}) for entry in entries]


def smaller(planned: Planned, scale: float, folder: Path) -> Planned:
    """The same with a share of the epochs or steps, below another folder."""

    def moved(path: str) -> str:
        return str(folder / "trial" / Path(path).relative_to(folder))

    job = planned.job
    start = moved(job.start_from) if job.start_from is not None else None
    job = replace(job, folder=moved(job.folder), model=moved(job.model), start_from=start)
    if isinstance(job, PretrainJob):
        return replace(planned, job=replace(job, steps=max(1, round(scale * job.steps))))
    epochs = max(1, round(scale * job.settings.epochs))
    return replace(planned, job=replace(job, settings=replace(job.settings, epochs=epochs)))


def work(planned: Planned) -> None:
    """One job, in this process."""
    if planned.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    from cloud_core.training import fit, pretrain
    from cloud_core.training.distributed import ranks

    folder = Path(planned.job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    if isinstance(planned.job, FitJob):
        fit.run(planned.job)
    else:
        with ranks() as group:
            pretrain.train(planned.job, group)
    if not planned.keep_model:
        shutil.rmtree(planned.job.model)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    write_json(folder / DONE, seconds)


def worker(
    queue: "multiprocessing.Queue[Planned | None]", done: "multiprocessing.Queue[tuple[str, str]]"
) -> None:
    """Jobs from a queue until it gives none."""
    while (planned := queue.get()) is not None:
        try:
            work(planned)
            error = ""
        except (CloudError, RuntimeError, ValueError, OSError):  # told, and the others go on
            error = traceback.format_exc()
        done.put((planned.job.folder, error))


def do(planned: Sequence[Planned], workers: dict[str, int], ends: float) -> list[str]:
    """Do the jobs, `workers` of each device at once; returns the folders of those that failed.

    ends: of `time.monotonic`; what is running then is killed."""
    context = multiprocessing.get_context("spawn")
    done: Any = context.Queue()
    queues = {device: context.Queue() for device in workers}
    pool = [
        context.Process(target=worker, args=(queues[device], done), daemon=True)
        for device, number in workers.items()
        for _ in range(number)
    ]
    for process in pool:
        process.start()
    waiting = {
        device: deque(each for each in planned if each.device == device and not each.done)
        for device in workers
    }
    free, running, failed = dict(workers), dict[str, Planned](), list[str]()
    began = time.monotonic()
    while time.monotonic() < ends:
        for device, rest in waiting.items():
            while free[device] and (found := next((each for each in rest if each.ready), None)) is not None:
                rest.remove(found)
                running[found.job.folder] = found
                free[device] -= 1
                queues[device].put(found)
        if not running:
            break
        try:
            folder, error = done.get(timeout=min(1.0, max(0.01, ends - time.monotonic())))
        except multiprocessing.queues.Empty:
            continue
        finished = running.pop(folder)
        free[finished.device] += 1
        print(f"{time.monotonic() - began:6.0f} s  {folder}  {error or told(finished)}", flush=True)
        failed += [folder] if error else []
    left = sum(map(len, waiting.values()))
    print(
        f"{left} not begun, {len(running)} not ended: {', '.join(running)}; {len(failed)} failed", flush=True
    )
    for process in pool:
        process.kill()
    return failed


def told(planned: Planned) -> str:
    result = json.loads((Path(planned.job.folder) / RESULT).read_text(encoding="utf-8"))
    seconds = json.loads((Path(planned.job.folder) / DONE).read_text(encoding="utf-8"))
    known = {
        key: result[key]
        for key in ("best_epoch", "epochs", "validation_loss", "rows_per_second")
        if key in result
    }
    return f"{known or result} {seconds}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", type=int, default=0, help="workers on the GPU")
    parser.add_argument("--cpu", type=int, default=1, help="workers with a CPU core each")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--scale", type=float)
    parser.add_argument("--only", default="", help="folders with this in their names")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    planned = [each for each in read(options.folder) if options.only in each.job.folder]
    if options.scale is not None:
        planned = [smaller(each, options.scale, options.folder) for each in planned]
    if not options.gpu:
        planned = [replace(each, device="cpu") for each in planned]
    raise SystemExit(1 if do(planned, {"gpu": options.gpu, "cpu": options.cpu}, ends) else 0)


if __name__ == "__main__":
    main()
