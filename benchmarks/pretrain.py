"""Strings per second of pretraining: the published configuration against ours, side by side in one run.

    python benchmarks/pretrain.py STRINGS.csv [--device cuda] [--batch 32] [--rounds 3]

(a) `transformers`' `BertForMaskedLM` as published: every string padded to 64, 30,522 words, a DataLoader with
the published collator. (b) ours: the same encoder over the 564 words in use, packed, scored at masked places
only; the same masking and the same loss, the mean cross-entropy of masked tokens. Both with fused AdamW. They
take turns, step by step, so that whatever else the machine does falls on both. Ratios are of wall-clock time;
on one CPU thread those of CPU time, which does not count what others on the machine take, stand
beside them. Needs torch, numpy, pyarrow and safetensors, and transformers for (a).
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from cloud_core.models.encoder import MaskedLanguageModel, Packing
from cloud_core.models.geometry import EncoderConfig
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.batches import Batches, epoch_batches
from cloud_core.training.distributed import Ranks
from cloud_core.training.losses.masked import micro_batches
from cloud_core.training.losses.mlm import MicroBatch, Objective
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings, adamw, schedule, set_learning_rate
from cloud_core.training.progress import matrix_rate, training_operations

Step = Callable[[], int]  # takes one optimiser step, returns the strings in it


def published(texts: list[str], device: torch.device, batch: int, folder: Path, bfloat16: bool) -> Step:
    """The authors' loop without their Trainer: the same model, tokenizer, collator, loader and optimiser."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, DataCollatorForLanguageModeling

    vocabulary = Tokenizer().words
    vocab_file = folder / "vocab.txt"
    vocab_file.write_text("\n".join(vocabulary[:463]) + "\n")
    tokenizer = BertTokenizerFast(str(vocab_file), do_lower_case=False)
    tokenizer.add_tokens(list(vocabulary[463:]))
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=64)["input_ids"]
    assert encoded[0][: len(Tokenizer().encode(texts[0]))] == Tokenizer().encode(texts[0])
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    mask = [[int(i != tokenizer.pad_token_id) for i in ids] for ids in encoded]
    rows = [{"input_ids": ids, "attention_mask": m} for ids, m in zip(encoded, mask, strict=True)]
    loader = torch.utils.data.DataLoader(
        rows,
        batch_size=batch,
        shuffle=True,
        collate_fn=collate,
        num_workers=0,
        pin_memory=device.type == "cuda",
    )
    config = BertConfig(vocab_size=30_522, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id)
    model = BertForMaskedLM(config).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)

    def endless() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> int:
        inputs = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
        with autocast(device, bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return len(inputs["input_ids"])

    return step


def padded(batch: MicroBatch) -> MicroBatch:
    """The same micro-batch as a padded grid, on which linear layers work too: the choice not taken."""
    packing, length = batch.packing, batch.packing.length
    if packing.places is None:
        return batch
    grid = torch.full((packing.batch * length,), Tokenizer().pad_id)
    ids = grid.index_copy(0, packing.places, batch.ids)
    places = torch.arange(length).repeat(packing.batch)
    whole = Packing(packing.batch, length, None, places, packing.mask)
    return batch._replace(ids=ids, packing=whole, masked=packing.places[batch.masked])


def ours(
    texts: list[str],
    device: torch.device,
    batch: int,
    bfloat16: bool,
    compiled: bool,
    operations: list[float],
    grid: bool = False,
) -> Step:
    """A step of `cloud_core.training.pretrain`, without checkpoints and reports."""
    corpus = Batches.distinct(texts)
    ranks = Ranks(0, 1, device)
    config = EncoderConfig()
    objective = Objective(MaskedLanguageModel(config)).to(device).train()
    if compiled:
        objective.compile(dynamic=True)
    settings = OptimiserSettings()
    optimiser = adamw(objective, config.layers, settings)
    plan = ((epoch, rows) for epoch in range(10**6) for rows in epoch_batches(len(corpus), batch, 0, epoch))
    done = 0

    def step() -> int:
        nonlocal done
        epoch, rows = next(plan)
        batches, scored = micro_batches(corpus, rows, Masking(), 0, epoch, ranks, 65_536)
        set_learning_rate(optimiser, schedule(done, 10_000, settings))
        for part in batches:
            with autocast(device, bfloat16):
                loss, _ = objective((padded(part) if grid else part).to(device))
            (loss / scored).backward()
        nn.utils.clip_grad_norm_(objective.parameters(), settings.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        operations.append(training_operations(config, corpus.lengths[rows], scored))
        done += 1
        return len(rows)

    return step


def autocast(device: torch.device, bfloat16: bool) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


class Times(NamedTuple):
    """Seconds a string, of wall-clock time and of the processor's."""

    wall: float
    processor: float


def timed(step: Step, device: torch.device) -> Times:
    """On a GPU of ten steps, since batches are made while it works."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, processor = time.perf_counter(), time.process_time()
    strings = sum(step() for _ in range(10 if device.type == "cuda" else 1))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Times((time.perf_counter() - wall) / strings, (time.process_time() - processor) / strings)


def machine(device: torch.device) -> str:
    """Its name, and what decides the rates."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    name, flags = platform.processor() or platform.machine(), ""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        found = dict(line.split("\t", 1) for line in facts.read_text().splitlines() if "\t" in line)
        name = found.get("model name", name).removeprefix(": ")
        flags = " ".join(sorted({"avx512_bf16", "amx_bf16"} & set(found.get("flags", "").split())))
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    return f"{name}, {os.cpu_count()} cores, {threads} threads, {flags}, load {load:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("strings", type=Path, help="SCOPE strings, one a line")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=32, help="strings per optimiser step")
    parser.add_argument(
        "--rounds", type=int, default=4, help="turns that count, each of a step (on a GPU: ten)"
    )
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    texts = [line for line in options.strings.read_text().splitlines() if "|" in line]
    torch.manual_seed(0)
    operations: dict[str, list[float]] = {}

    def our(name: str, bfloat16: bool, compiled: bool = False, grid: bool = False) -> Step:
        operations[name] = []
        return ours(texts, device, options.batch, bfloat16, compiled, operations[name], grid)

    steps: dict[str, Step] = {}
    if find_spec("transformers"):
        with tempfile.TemporaryDirectory() as folder:
            for precision in ("float32", "bfloat16"):
                bfloat16 = precision == "bfloat16"
                step = published(texts, device, options.batch, Path(folder), bfloat16)
                steps[f"(a) published, {precision}"] = step
    else:
        print("transformers is not installed: (a) is not measured, and ratios are to the first row below")
    steps |= {
        "(b) ours, float32": our("(b) ours, float32", False),
        "(b) ours, bfloat16": our("(b) ours, bfloat16", True),
        "ours, float32, padded": our("ours, float32, padded", False, grid=True),
        "ours, bfloat16, padded": our("ours, bfloat16, padded", True, grid=True),
    }
    if options.compile:
        steps["ours, bfloat16, compiled"] = our("ours, bfloat16, compiled", True, True)
    times: dict[str, list[Times]] = {name: [] for name in steps}
    print(f"{machine(device)}, torch {torch.__version__}")
    for turn in range(options.rounds + 1):
        for name, step in steps.items():
            seconds = timed(step, device)
            if turn:
                times[name].append(seconds)
    peak = {dtype: matrix_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(f"matrix rate: float32 {peak[torch.float32]:.3g}, bfloat16 {peak[torch.bfloat16]:.3g} operations/s")
    print(f"batch {options.batch}, {len(texts):,} strings, median of {options.rounds} turns")
    medians = {
        name: Times(*(statistics.median(clock) for clock in zip(*taken, strict=True)))
        for name, taken in times.items()
    }
    base = next(iter(medians.values()))
    by_processor = device.type == "cpu" and torch.get_num_threads() == 1
    heads = ["configuration", "strings/s", "times the first", "model-FLOP utilisation"]
    heads += ["times the first, by CPU time"] if by_processor else []
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, taken in medians.items():
        used = ""
        if name in operations:
            dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
            used = f"{np.mean(operations[name]) / options.batch / taken.wall / peak[dtype]:.0%}"
        cells = [name, f"{1 / taken.wall:.2f}", f"{base.wall / taken.wall:.2f}", used]
        cells += [f"{base.processor / taken.processor:.2f}"] if by_processor else []
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
