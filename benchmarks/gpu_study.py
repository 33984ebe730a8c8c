"""Pretrain, finetune every task at hand with and without pretraining, and print the table: one process.

    python benchmarks/prepare_study.py --to runs/study        # once, where the data and all libraries are
    python benchmarks/gpu_study.py --data runs/study --preset gpu

It needs torch, numpy, pyarrow and safetensors alone, ends within `--minutes`, and prints each row as soon as
it is known, for a machine that is borrowed and keeps nothing. `--preset cpu` is what docs/results.md was
measured with, `--preset toy` shows in seconds that it runs. A fit that is done under `--to` is not done
again.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloud_core.models.encoder import EncoderConfig
from cloud_core.models.heads import Target
from cloud_core.training.corpus import Corpus, batches_per_epoch
from cloud_core.training.distributed import ranks
from cloud_core.training.finetune import FitSettings
from cloud_core.training.optimiser import OptimiserSettings
from cloud_core.training.pretrain import Job as PretrainJob
from cloud_core.training.pretrain import train
from cloud_core.training.property import LABELS, Job, run

# MAE over five folds, read off the authors' figures to 1-2 %: (pretrained, without pretraining).
PUBLISHED = {
    "phonons": (40.5, 87.6),
    "dielectric": (0.303, 0.389),
    "log_gvrh": (0.087, 0.117),
    "log_kvrh": (0.068, None),
    "perovskites": (0.096, None),
    "mp_gap": (0.211, None),
    "mp_e_form": (0.054, None),
}


@dataclass(frozen=True)
class Preset:
    """Sizes. `large` are epochs for tasks of more than 2,000 training rows."""

    encoder: EncoderConfig
    pretrain_epochs: float
    pretrain_rate: float
    pretrain_batch: int
    epochs: int
    large: int
    rate: float
    scratch_rate: float
    precision: str


def small(hidden: int, layers: int) -> EncoderConfig:
    return EncoderConfig(
        hidden_size=hidden, layers=layers, heads=max(1, hidden // 32), feed_forward=4 * hidden
    )


PRESETS = {
    "toy": Preset(small(32, 1), 0.02, 1e-3, 64, 1, 1, 1e-3, 1e-3, "float32"),
    "cpu": Preset(small(128, 2), 2, 1e-3, 64, 20, 6, 5e-4, 1e-3, "float32"),
    "gpu": Preset(EncoderConfig(), 6, 2e-4, 512, 50, 20, 5e-5, 5e-5, "bfloat16"),
}


def pretrain(preset: Preset, data: Path, to: Path) -> str:
    """The folder of an encoder trained on the study's corpus."""
    model = to / "encoder"
    if (to / "pretrain" / "result.json").is_file():
        return str(model)
    training = data / "corpus" / "training.safetensors"
    per_epoch = batches_per_epoch(len(Corpus.load(training)), preset.pretrain_batch)
    steps = max(1, round(preset.pretrain_epochs * per_epoch))
    job = PretrainJob(
        folder=str(to / "pretrain"),
        training=str(training),
        validation=str(data / "corpus" / "validation.safetensors"),
        model=str(model),
        steps=steps,
        encoder=preset.encoder,
        optimiser=OptimiserSettings(learning_rate=preset.pretrain_rate),
        batch_size=preset.pretrain_batch,
        precision=preset.precision,  # type: ignore[arg-type]
        log_every=max(1, steps // 10),
        validate_every=steps,
        checkpoint_every=steps,
        metadata={"form": "canonical"},
    )
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with ranks() as group:
        train(job, group)
    result = json.loads((to / "pretrain" / "result.json").read_text())
    metrics = {key: round(value, 3) for key, value in result["metrics"].items() if "validation" in key}
    print(f"pretrained {steps} steps in {time.perf_counter() - started:.0f} s: {metrics}", flush=True)
    return str(model)


def finetune(preset: Preset, split: Path, to: Path, target: Target, encoder: str | None) -> dict[str, Any]:
    """Errors of one fit on a split's test rows: over all, and on rows whose string was trained on or not."""
    facts = json.loads((split / "study.json").read_text())
    settings = FitSettings(
        epochs=preset.large if facts["rows"][0] > 2000 else preset.epochs,
        batch_size=32,
        optimiser=OptimiserSettings(
            learning_rate=preset.scratch_rate if encoder is None else preset.rate,
            layer_decay=1.0 if encoder is None else 0.9,
        ),
        precision=preset.precision,  # type: ignore[arg-type]
    )
    start = {"from_scratch": preset.encoder} if encoder is None else {"start_from": encoder}
    here = to / facts["task"] / f"fold-{facts['fold']}" / ("scratch" if encoder is None else "pretrained")
    job = Job(str(here), str(split), str(here / "model"), (target,), replace(settings), "l1", **start)
    job.write()
    started = time.perf_counter()
    result = run(job)
    labels = job.load("test").columns[LABELS][:, 0]
    errors = np.abs(job.predictions("test")[target.name] - labels)
    shared = np.array(facts["shared"], dtype=bool)
    return {
        "mae": float(errors.mean()),
        "mae_shared": float(errors[shared].mean()) if shared.any() else float("nan"),
        "mae_unshared": float(errors[~shared].mean()),
        "seconds": time.perf_counter() - started,
        "best_epoch": result["best_epoch"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="what prepare_study.py wrote")
    parser.add_argument("--to", type=Path, default=Path("runs/gpu_study"))
    parser.add_argument("--preset", choices=list(PRESETS), default="toy")
    parser.add_argument(
        "--tasks", default="phonons,dielectric,log_kvrh,log_gvrh,perovskites,mp_gap,mp_e_form"
    )
    parser.add_argument("--folds", type=int, default=5, help="at most so many of each task")
    parser.add_argument("--minutes", type=float, default=9.5, help="begin no fit after this time")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    preset = PRESETS[arguments.preset]
    place = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads"
    )
    print(f"{arguments.preset} on {place}: {asdict(preset)}", flush=True)
    encoder = pretrain(preset, arguments.data, arguments.to)
    lines: list[str] = []
    for task in arguments.tasks.split(","):
        found: dict[str, list[dict[str, Any]]] = {"pretrained": [], "from scratch": []}
        facts: list[dict[str, Any]] = []
        for split in sorted((arguments.data / task).glob("fold-*"))[: arguments.folds]:
            if time.perf_counter() - started > 60 * arguments.minutes:
                break
            facts.append(json.loads((split / "study.json").read_text()))
            target = Target(facts[-1]["target"], facts[-1]["unit"])
            for name, start in (("pretrained", encoder), ("from scratch", None)):
                found[name].append(finetune(preset, split, arguments.to, target, start))
        if not facts:
            lines.append(f"| {task} | no time left, or no data |")
            continue
        lines.append(line_of(task, facts, found))
        print(lines[-1], flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all; MAE, mean over folds\n")
    print(
        "| task (rows, folds) | unit | pretrained | from scratch | mean | composition forest | "
        "bag of words | published, pretrained / not | MAE/MAD | shared test rows: their MAE / the others' |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def line_of(task: str, facts: list[dict[str, Any]], found: dict[str, list[dict[str, Any]]]) -> str:
    """One row of the table."""

    def over(values: list[float]) -> str:
        spread = f" ± {np.std(values):.2g}" if len(values) > 1 else ""
        return f"{np.mean(values):.4g}{spread}"

    mean, forest, bag = (
        [fact["baselines"][name] for fact in facts] for name in list(facts[0]["baselines"])[:3]
    )
    model = [entry["mae"] for entry in found["pretrained"]]
    relative = [mae / dummy for mae, dummy in zip(model, mean, strict=True)]
    with_pretraining, without = PUBLISHED.get(task, (None, None))
    keys = ("mae_shared", "mae_unshared")
    parts = [np.nanmean([entry[key] for entry in found["pretrained"]]) for key in keys]
    cells = [
        f"{task} ({facts[0]['note']}, {len(facts)})",
        facts[0]["unit"],
        over(model),
        over([entry["mae"] for entry in found["from scratch"]]),
        over(mean),
        over(forest),
        over(bag),
        f"{with_pretraining or '–'} / {without or '–'}",
        over(relative),
        f"{sum(fact['shared_strings'] for fact in facts)} of {sum(fact['rows'][2] for fact in facts)}: "
        f"{parts[0]:.3g} / {parts[1]:.3g}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
