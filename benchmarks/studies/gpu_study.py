"""Finetune every task at hand with and without pretraining, beside the baselines: one command, one table.

    python benchmarks/studies/corpus.py --to runs/corpus
    python benchmarks/studies/prepare_study.py --to runs/study --corpus runs/corpus/strings.txt
    python benchmarks/studies/gpu_study.py --data runs/study --preset gpu                # pretrains first
    OMP_NUM_THREADS=1 python benchmarks/studies/gpu_study.py --data runs/study --preset cpu --encoder FOLDER \
        --pretrained-on runs/corpus/strings.txt --minutes 40 --workers 2               # takes an encoder

It needs torch, numpy, pyarrow and safetensors alone, ends within `--minutes`, and prints each fit as soon as
it is known, for a machine that is borrowed and keeps nothing. Pretraining takes a share of the time at most.
One fit of each fold at hand comes first, then the controls from scratch, and the epochs of both are cut by
one factor so that they are expected to end in time; further seeds take what time is left. Settings, epochs
and the digests of the data stand in `plan.json` below `--to`: a second start goes on with the fits that are
missing, and `--minutes 0` prints the table of what is there.

Validation rows, which a fit never trains on, choose its epoch, and with `--tune` the pooling and the peak
rate of all tasks and folds: those of the lowest validation loss on fold 0 of the named ones. Test rows of a
fold choose nothing in it; but some of the validation rows of fold 0 are test rows of folds 1 to 4, whose
pooling and rate they had a part in choosing where `--tune` was given.
"""

import argparse
import hashlib
import json
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_core.evaluation.metrics.regression import mae_over_mad
from cloud_core.files import write_json
from cloud_core.models.folder import read_config, weights_digest
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import Pooling, PropertyModel, geometry
from cloud_core.models.targets import Target, TargetError
from cloud_core.training.batches import Batches, batches_per_epoch
from cloud_core.training.distributed import ranks
from cloud_core.training.fit import run
from cloud_core.training.job import LABELS, PARTS, FitJob, FitSettings, PretrainJob, PretrainSettings
from cloud_core.training.loop import FitError, fit
from cloud_core.training.losses.property import property_loss, scaled
from cloud_core.training.optimiser import OptimiserSettings
from cloud_core.training.pretrain import train

# MAE over five folds, read off the authors' figures to 1-2 %: (pretrained, without pretraining).
PUBLISHED = {
    "phonons": (40.5, 87.6),
    "dielectric": (0.303, 0.389),
    "log_gvrh": (0.087, 0.117),
    "log_kvrh": (0.068, None),
    "jdft2d": (34.8, None),
    "perovskites": (0.096, None),
    "mp_gap": (0.211, None),
    "mp_e_form": (0.054, None),
}
PRETRAINED, SCRATCH = "pretrained", "scratch"
TRIED: tuple[tuple[Pooling, float], ...] = (("mean", 5e-4), ("mean", 1e-3), ("first", 5e-4), ("first", 1e-3))
TRIAL = 0.4  # of a fit's epochs
PRETRAINING = 0.4  # of the time, at most
TIMED = 20  # steps of pretraining, the second half of which tells how long the rest takes
RESERVE = 0.85  # of the time is planned for; the rest is for validation, tests and a slower machine


@dataclass(frozen=True)
class Preset:
    """Sizes. A fit takes `passes` rows through the model, but at least and at most so many epochs."""

    encoder: EncoderConfig
    pretrain_epochs: float
    pretrain_rate: float
    pretrain_batch: int
    passes: int
    epochs: tuple[int, int]
    rate: float
    scratch_rate: float
    layer_decay: float
    dropout: float
    pooling: Pooling
    precision: str

    def epochs_of(self, rows: int, factor: float = 1.0) -> int:
        least, most = self.epochs
        return max(1, round(factor * min(most, max(least, self.passes / rows))))

    def settings(self, start: str, epochs: int, seed: int) -> FitSettings:
        optimiser = OptimiserSettings(
            learning_rate=self.rate if start == PRETRAINED else self.scratch_rate,
            layer_decay=self.layer_decay if start == PRETRAINED else 1.0,
        )
        return FitSettings(
            epochs, 32, optimiser, seed=seed, precision=self.precision, pooling=self.pooling,  # type: ignore[arg-type]
            dropout=self.dropout, patience=None, averaging=None,
        )  # fmt: skip


def small(hidden: int, layers: int) -> EncoderConfig:
    return EncoderConfig(
        hidden_size=hidden, layers=layers, heads=max(1, hidden // 32), feed_forward=4 * hidden
    )


PRESETS = {
    "toy": Preset(small(32, 1), 0.02, 1e-3, 64, 1, (1, 1), 1e-3, 1e-3, 0.9, 0.1, "mean", "float32"),
    "cpu": Preset(small(256, 4), 2, 1e-3, 64, 36_000, (3, 30), 5e-4, 5e-4, 0.9, 0.1, "mean", "bfloat16"),
    "gpu": Preset(EncoderConfig(), 6, 2e-4, 512, 60_000, (20, 50), 5e-5, 5e-5, 0.9, 0.1, "first", "bfloat16"),
}


def pretrain(preset: Preset, data: Path, to: Path, seconds: float) -> Path:
    """The folder of an encoder trained on the study's corpus, in about `seconds` at most."""
    model = to / "encoder"
    if (to / "pretrain" / "result.json").is_file():
        return model
    if seconds <= 0:
        raise SystemExit(f"{to}: no encoder there, and no time to pretrain one; give more --minutes")
    training = data / "corpus" / "training.safetensors"
    per_epoch = batches_per_epoch(len(Batches.load(training)), preset.pretrain_batch)
    steps = max(1, round(preset.pretrain_epochs * per_epoch))
    job = PretrainJob(
        folder=str(to / "pretrain"),
        training=str(training),
        validation=str(data / "corpus" / "validation.safetensors"),
        model=str(model),
        steps=steps,
        settings=PretrainSettings(
            encoder=preset.encoder,
            optimiser=OptimiserSettings(learning_rate=preset.pretrain_rate),
            batch_size=preset.pretrain_batch,
            precision=preset.precision,  # type: ignore[arg-type]
            log_every=max(1, steps // 10),
            validate_every=steps,
            checkpoint_every=steps,
        ),
        metadata={"form": "canonical"},
    )
    started = time.perf_counter()
    if steps > TIMED:
        with TemporaryDirectory() as place:
            often = replace(job.settings, log_every=TIMED // 2)
            short = replace(job, folder=place, model=f"{place}/model", steps=TIMED, settings=often)
            rate = pretrained(short)["system/strings_per_second"] / preset.pretrain_batch
        left = seconds - (time.perf_counter() - started)
        steps = max(1, min(steps, round(rate * left)))
        every = {"validate_every": steps, "checkpoint_every": steps, "log_every": max(1, steps // 10)}
        job = replace(job, steps=steps, settings=replace(job.settings, **every))
    metrics = {key: round(value, 3) for key, value in pretrained(job).items() if "validation" in key}
    print(
        f"pretrained {steps} steps ({steps / per_epoch:.2g} epochs of {preset.pretrain_epochs:g}) in "
        f"{time.perf_counter() - started:.0f} s: {metrics}",
        flush=True,
    )
    return model


def pretrained(job: PretrainJob) -> dict[str, float]:
    """Do the job; its last metrics."""
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    with ranks() as group:
        train(job, group)
    return dict(json.loads((Path(job.folder) / "result.json").read_text())["metrics"])


@dataclass(frozen=True)
class Part:
    """A fold of a task as prepare_study.py wrote it."""

    folder: Path
    facts: dict[str, Any]

    @property
    def task(self) -> str:
        return str(self.facts["task"])

    @property
    def rows(self) -> int:
        """Of training."""
        return int(self.facts["rows"][0])

    @property
    def target(self) -> Target:
        return Target(self.facts["target"], self.facts["unit"])

    @property
    def digest(self) -> str:
        """Of the rows and their labels."""
        content = hashlib.sha256()
        for part in PARTS:
            content.update((self.folder / f"{part}.safetensors").read_bytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class Fit:
    """One fit: where it begins, on which fold, from which seed."""

    part: Part
    start: str
    seed: int
    job: FitJob

    @property
    def cost(self) -> int:
        """Rows through the model."""
        return self.part.rows * self.job.settings.epochs

    @property
    def errors(self) -> NDArray[np.float64]:
        """Absolute errors `[test rows]` of a finished fit."""
        return absolute_errors([self])


def predicted(fits: Sequence[Fit]) -> NDArray[np.float64]:
    """`[test rows]`: the mean prediction of some seeds on one fold."""
    name = fits[0].part.target.name
    return np.asarray(np.mean([each.job.predictions("test")[name] for each in fits], axis=0))


def labels_of(each: Fit, part: str) -> NDArray[np.float64]:
    return np.asarray(each.job.load(part).columns[LABELS][:, 0])


def absolute_errors(fits: Sequence[Fit]) -> NDArray[np.float64]:
    """`[test rows]` of the mean prediction of some seeds on one fold."""
    return np.abs(predicted(fits) - labels_of(fits[0], "test"))


def relative_error(fits: Sequence[Fit]) -> float:
    """MAE/MAD of the mean prediction. The dummy knows training and validation rows, as the baselines do."""
    known = np.concatenate([labels_of(fits[0], "train"), labels_of(fits[0], "validation")])
    return mae_over_mad(labels_of(fits[0], "test"), predicted(fits), known.mean())


def parts_of(data: Path, tasks: Sequence[str], folds: int) -> list[Part]:
    """The folds at hand, at most `folds` of each task."""
    found = []
    for task in tasks:
        folders = sorted((data / task).glob("fold-*"))[:folds]
        found += [Part(at, json.loads((at / "study.json").read_text())) for at in folders]
    if not found:
        raise SystemExit(f"{data}: none of {', '.join(tasks)}; run benchmarks/studies/prepare_study.py first")
    return found


def rows_per_second(preset: Preset, part: Part) -> float:
    """Of training, measured now on one process."""
    examples = Batches.load(part.folder / "train.safetensors").take(np.arange(min(part.rows, 640)))
    target = part.target.fitted(examples.columns[LABELS][:, 0])
    settings = preset.settings(SCRATCH, 2, 0)
    rows = scaled(examples, [target])
    found = fit(
        PropertyModel(preset.encoder, [target], preset.pooling),
        rows,
        rows.take(np.arange(1)),
        settings,
        property_loss([target], np.ones(1)),
    )
    return found.epochs[-1].rows_per_second


def work(job: FitJob) -> None:
    """What a worker does: a fit in a process of its own."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    run(job)


def do(fits: Sequence[Fit], workers: int, threads: int, rate: float, ends: float) -> list[Fit]:
    """Do the fits in order, `workers` at once, none that is not expected to be done at `ends`
    (`time.monotonic`); returns those left out. One that fails is told, and the others go on.

    `rate` is what a worker is expected to do, rows per second,
    and is corrected by what it does."""
    waiting, left, running = deque(fits), [], dict[Future[None], tuple[Fit, float]]()
    done_rows, done_seconds = 0.0, 0.0
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (threads,)) as pool:
        while waiting or running:
            while waiting and len(running) < workers:
                each = waiting.popleft()
                if time.monotonic() + each.cost / rate > ends:
                    left.append(each)
                else:
                    each.job.write()
                    running[pool.submit(work, each.job)] = each, time.monotonic()
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                each, began = running.pop(future)
                try:
                    future.result()
                except (FitError, TargetError) as error:
                    print(f"failed: {each.job.folder}: {error}", flush=True)
                    continue
                seconds = time.monotonic() - began
                done_rows, done_seconds = done_rows + each.cost, done_seconds + seconds
                rate = done_rows / done_seconds
                result = each.job.result() or {}
                error = f", MAE {each.errors.mean():.4g} {each.part.facts['unit']}"
                print(
                    f"{each.part.task} fold {each.part.facts['fold']}, {each.start}, seed {each.seed}: epoch "
                    f"{result['best_epoch']} of {result['epochs']}, validation loss "
                    f"{result['validation_loss']:.4f}{error if each.start in (PRETRAINED, SCRATCH) else ''}; "
                    f"{seconds:.0f} s, {each.cost / seconds:.0f} rows/s",
                    flush=True,
                )
    return left


Round = tuple[str, int, bool]
"""(where fits start, seed, on every fold at hand: else on fold 0 alone)"""


def fits_of(
    preset: Preset,
    parts: Sequence[Part],
    rounds: Sequence[Round],
    epochs: dict[str, int],
    encoder: Path,
    to: Path,
) -> list[Fit]:
    """All fits, round by round, each once.

    Long ones first, so that a round ends evenly; of further seeds, for which time may not last, short ones.
    """
    fits: dict[str, Fit] = {}
    for start, seed, every in rounds:
        begin = {"start_from": str(encoder)} if start == PRETRAINED else {"from_scratch": preset.encoder}
        order = 1 if seed else -1
        for part in sorted(parts, key=lambda part: order * part.rows * epochs[part.task]):
            if every or part.facts["fold"] == 0:
                here = to / part.task / f"fold-{part.facts['fold']}" / f"{start}-seed-{seed}"
                settings = preset.settings(start, epochs[part.task], seed)
                paths = str(here), str(part.folder), str(here / "model")
                job = FitJob(*paths, (part.target,), settings, **begin)
                fits.setdefault(str(here), Fit(part, start, seed, job))
    return list(fits.values())


def tuned(
    preset: Preset,
    parts: Sequence[Part],
    encoder: Path,
    to: Path,
    workers: int,
    threads: int,
    rate: float,
    ends: float,
) -> Preset:
    """The preset with the pooling and the rate of the lowest validation loss, in deviations of the labels.

    Short fits of the pretrained encoder on `parts`; what is done already is not done again.

    Raises:
        SystemExit: no time for all of them.
    """
    trials: dict[tuple[Pooling, float], list[Fit]] = {}
    for pooling, peak in TRIED:
        trial = replace(preset, pooling=pooling, rate=peak)
        for part in parts:
            settings = trial.settings(PRETRAINED, trial.epochs_of(part.rows, TRIAL), 0)
            here = to / part.task / f"{pooling}-{peak:g}"
            paths = str(here), str(part.folder), str(here / "model")
            job = FitJob(*paths, (part.target,), settings, start_from=str(encoder))
            trials.setdefault((pooling, peak), []).append(Fit(part, f"{pooling} token, {peak:g}", 0, job))
    missing = [each for fits in trials.values() for each in fits if each.job.result() is None]
    left = do(missing, workers, threads, rate, ends)
    if left:
        raise SystemExit(f"{to}: no time for {len(left)} trials; start again, or give more --minutes")
    losses = {
        key: float(
            np.mean([(each.job.result() or {"validation_loss": np.inf})["validation_loss"] for each in fits])
        )
        for key, fits in trials.items()
    }
    print("validation loss by pooling and rate:", {f"{p} {r:g}": round(v, 4) for (p, r), v in losses.items()})
    pooling, peak = min(losses, key=lambda key: losses[key])
    return replace(preset, pooling=pooling, rate=peak)


def keep_plan(
    path: Path, plan: dict[str, Any], data: dict[str, str], epochs: dict[str, int]
) -> dict[str, int]:
    """The epochs of `plan.json`, and `epochs` of the tasks that it does not have yet, written there.

    Args:
        data: digests of the folds, by task/fold.

    Raises:
        SystemExit: the fits below `--to` began from another encoder, with other settings or on other data.
    """
    plan = json.loads(json.dumps(plan))
    kept = json.loads(path.read_text()) if path.is_file() else plan | {"data": {}, "epochs": {}}
    if {key: kept[key] for key in plan} != plan:
        raise SystemExit(f"{path}: of another encoder or other settings; give another --to")
    if "data" not in kept:
        raise SystemExit(f"{path}: does not say on which data its fits are; give another --to")
    epochs = epochs | kept["epochs"]
    data = {name: digest for name, digest in data.items() if name.split("/")[0] in epochs}
    other = [name for name, digest in data.items() if kept["data"].get(name, digest) != digest]
    if other:
        raise SystemExit(f"{path}: of other data than that in --data ({', '.join(other)}); give another --to")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plan | {"data": kept["data"] | data, "epochs": epochs})
    return epochs


def table(fits: Sequence[Fit], seen: set[str] | None) -> list[str]:
    """The results as Markdown, a line a task."""
    head = (
        "task (rows; folds)",
        "unit",
        "pretrained, seeds averaged",
        "one seed",
        "from scratch (folds)",
        "mean",
        "composition forest",
        "boosting",
        "published, pretrained / not",
        "MAE/MAD",
        "string trained on: MAE of those rows / others",
        "string pretrained on: MAE of those rows / others",
    )
    done = [each for each in fits if each.job.result() is not None]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for task in dict.fromkeys(each.part.task for each in fits):
        of_task = [each for each in done if each.part.task == task and each.start == PRETRAINED]
        scratch = [each for each in done if each.part.task == task and each.start == SCRATCH]
        if not of_task:
            lines.append(f"| {task} | not done |" + " |" * (len(head) - 2))
        else:
            lines.append(f"| {' | '.join(cells(of_task, scratch, seen))} |")
    return lines


def by_fold(fits: Sequence[Fit]) -> dict[int, list[Fit]]:
    folds: dict[int, list[Fit]] = {}
    for each in fits:
        folds.setdefault(each.part.facts["fold"], []).append(each)
    return dict(sorted(folds.items()))


def cells(fits: Sequence[Fit], scratch: Sequence[Fit], seen: set[str] | None) -> list[str]:
    """One row of the table, from the finished fits of a task."""

    def over(values: Sequence[float]) -> str:
        spread = f" ± {np.std(values):.2g}" if len(values) > 1 else ""
        return f"{np.mean(values):.4g}{spread}"

    def apart(of_fold: Sequence[NDArray[np.bool_]]) -> str:
        errors, mask = (
            np.concatenate([absolute_errors(each) for each in folds.values()]),
            np.concatenate(of_fold),
        )
        means = [f"{errors[rows].mean():.3g}" if rows.any() else "–" for rows in (mask, ~mask)]
        return f"{mask.sum()} of {len(mask)}: {' / '.join(means)}"

    folds, facts = by_fold(fits), [each[0].part.facts for each in by_fold(fits).values()]
    averaged = [float(absolute_errors(each).mean()) for each in folds.values()]
    single = [float(np.mean([one.errors.mean() for one in each])) for each in folds.values()]
    control = {fold: float(absolute_errors(each).mean()) for fold, each in by_fold(scratch).items()}
    baselines = [[fact["baselines"][name] for fact in facts] for name in list(facts[0]["baselines"])[:3]]
    relative = [relative_error(each) for each in folds.values()]
    published = " / ".join(f"{value or '–'}" for value in PUBLISHED.get(facts[0]["task"], (None, None)))
    seeds = sorted({len(each) for each in folds.values()})
    known = "unknown"
    if seen is not None and facts[0]["test"]:
        known = apart(
            [np.array([text in seen for text in each[0].part.facts["test"]]) for each in folds.values()]
        )
    return [
        f"{facts[0]['task']} ({facts[0]['note']}; {', '.join(map(str, folds))})",
        facts[0]["unit"],
        f"{over(averaged)} ({'-'.join(map(str, seeds))})",
        over(single),
        f"{over(list(control.values()))} ({', '.join(map(str, control))})" if control else "–",
        *map(over, baselines),
        published,
        over(relative),
        apart([np.array(fact["shared"], bool) for fact in facts]),
        known,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="what prepare_study.py wrote")
    parser.add_argument("--to", type=Path, default=Path("runs/gpu_study"))
    parser.add_argument("--preset", choices=list(PRESETS), default="toy")
    parser.add_argument("--encoder", type=Path, help="a pretrained encoder's folder; default: pretrain one")
    parser.add_argument(
        "--pretrained-on", type=Path, help="file of the strings, one a line, that the encoder has seen"
    )
    parser.add_argument("--tasks", default=",".join(PUBLISHED))
    parser.add_argument("--folds", type=int, default=5, help="at most so many of each task")
    parser.add_argument("--seeds", type=int, default=2, help="pretrained fits of each fold, at most")
    parser.add_argument("--scratch-folds", type=int, default=1, choices=(0, 1, 5), help="of the control")
    parser.add_argument("--minutes", type=float, default=9.5, help="begin no fit that would end later")
    parser.add_argument("--workers", type=int, default=1, help="fits side by side")
    parser.add_argument(
        "--tune",
        default="",
        help="tasks to choose pooling and rate on, by validation rows of fold 0, of which some are test rows "
        "of other folds",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    started = time.monotonic()
    preset = PRESETS[arguments.preset]
    preset = replace(preset, precision=arguments.precision or preset.precision)
    parts = parts_of(arguments.data, arguments.tasks.split(","), arguments.folds)
    ends = started + 60 * arguments.minutes
    share = PRETRAINING * 60 * arguments.minutes
    encoder = arguments.encoder or pretrain(preset, arguments.data, arguments.to, share)
    preset = replace(preset, encoder=geometry(encoder))
    threads = max(1, torch.get_num_threads() // arguments.workers)
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else f"{arguments.workers} processes of {threads} threads"
    print(f"{arguments.preset} on {machine}: {asdict(preset)}", flush=True)
    print(f"encoder {encoder}: {read_config(encoder).get('metadata')}", flush=True)
    seen: set[str] | None = None
    if arguments.pretrained_on:
        seen = set(arguments.pretrained_on.read_text(encoding="utf-8").splitlines())
    elif arguments.encoder is None:
        seen = set()  # prepare_study.py leaves the test strings out of its corpus

    rounds: list[Round] = [(PRETRAINED, 0, True)]
    rounds += [(SCRATCH, 0, False)] if arguments.scratch_folds else []
    rounds += [(SCRATCH, 0, True)] if arguments.scratch_folds > 1 else []
    extra = [(PRETRAINED, seed, True) for seed in range(1, arguments.seeds)]
    torch.set_num_threads(threads)
    rate = rows_per_second(preset, parts[0]) if arguments.minutes > 0 else 1.0
    weights = weights_digest(encoder)
    data = {f"{part.task}/{part.folder.name}": part.digest for part in parts}
    trial = [part for part in parts if part.task in arguments.tune.split(",") and part.facts["fold"] == 0]
    if trial:
        key = hashlib.sha256("".join([weights, *(part.digest for part in trial)]).encode()).hexdigest()[:8]
        place = arguments.to / f"trials-{key}"
        preset = tuned(preset, trial, encoder, place, arguments.workers, threads, rate, ends)
    epochs = {part.task: preset.epochs_of(part.rows) for part in reversed(parts)}  # of fold 0
    cost = sum(each.cost for each in fits_of(preset, parts, rounds, epochs, encoder, arguments.to))
    factor = min(1.0, RESERVE * max(0.0, ends - time.monotonic()) * rate * arguments.workers / cost)
    path = arguments.to / "plan.json"
    if factor == 0 and not path.is_file():
        raise SystemExit(f"{arguments.to}: nothing there, and no time to do it; give more --minutes")
    # without time no task is planned, only those that were are shown
    epochs = {task: max(1, round(number * factor)) for task, number in epochs.items()} if factor else {}
    epochs = keep_plan(path, {"weights": weights, "preset": asdict(preset)}, data, epochs)
    parts = [part for part in parts if part.task in epochs]
    fits = fits_of(preset, parts, rounds + extra, epochs, encoder, arguments.to)
    missing = [each for each in fits if each.job.result() is None]
    print(
        f"{len(missing)} of {len(fits)} fits to do at {rate:.0f} rows/s a worker; epochs {epochs}", flush=True
    )
    for each in do(missing, arguments.workers, threads, rate, ends):
        print(f"no time left: {each.job.folder}")
    print(f"\n{time.monotonic() - started:.0f} s in all; MAE on test rows, mean ± deviation over folds\n")
    print("\n".join(table(fits, seen)))


if __name__ == "__main__":
    main()
