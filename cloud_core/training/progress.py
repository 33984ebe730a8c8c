"""What a run says while it trains: `metrics.jsonl`, a line a report, and the operations behind its rates."""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_core.files import write_text
from cloud_core.models.geometry import ELEMENTS, Geometry, SitesConfig

METRICS = "metrics.jsonl"


class MetricsFile:
    """Lines `{"step": …, "metrics": {…}}`, appended by rank 0 and read by whoever follows the run."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """Keep the lines up to step `resumed_at`: later ones are of steps that will be done again."""
        self.path = folder / METRICS
        kept = [line for line in read_lines(self.path) if line[0] <= resumed_at]
        write_text(self.path, "".join(_line(step, metrics) for step, metrics in kept))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(step, metrics))


def _line(step: int, metrics: Mapping[str, float]) -> str:
    return json.dumps({"step": step, "metrics": dict(metrics)}) + "\n"


def read_lines(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics) of every complete line from byte `start`; a line cut by a kill is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                entry = json.loads(line)
                yield entry["step"], entry["metrics"]


def training_operations(config: Geometry, lengths: NDArray[np.int64], scored: int) -> float:
    """Floating-point operations of a training step on strings of `lengths` tokens with `scored` predictions.

    Two for each multiply-add, three times the forward pass, padding and recomputation not counted: the
    numerator of model-FLOP utilisation (Chowdhery et al., arXiv 2204.02311, appendix B).
    """
    hidden, wide = config.hidden_size, config.feed_forward
    tokens = float(lengths.sum())
    linear = tokens * config.layers * (4 * hidden * hidden + 2 * hidden * wide)
    attention = float((lengths.astype(np.float64) ** 2).sum()) * config.layers * 2 * hidden
    outputs = ELEMENTS if isinstance(config, SitesConfig) else config.vocabulary_size
    head = scored * (hidden * hidden + hidden * outputs)
    return 6.0 * (linear + attention + head)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a square matrix product on this device, measured now: the best of five.

    On one CPU thread by the thread's own clock: what others on the machine take is no property of it.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    edge = 8192 if device.type == "cuda" else 1536
    left = torch.randn(edge, edge, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        _synchronise(device)
        started = clock()
        left @ left
        _synchronise(device)
        best = min(best, clock() - started)
    return 2.0 * edge**3 / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_bytes(device: torch.device) -> float:
    """Most memory taken so far: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
