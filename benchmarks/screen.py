"""Screening speed: from arrays of atoms to predictions, beside a route of the published shape.

    python benchmarks/screen.py STRUCTURES.parquet [--layers 12 --hidden 768 | --model FOLDER]

STRUCTURES holds lattice (9 numbers, Å), species and fractional positions, as the WBM set does. The published
route builds a pymatgen structure, asks spglib for its symmetry, tokenizes each string when its turn comes,
pads it to 64 tokens and computes in float32. Ours encodes with moyo, tokenizes all strings at once, computes
real tokens only (the last layer the first token alone), in float32 and in bfloat16. All have the same weights
and run in one process; each sees the strings of its own route. Rounds alternate, the best of each counts: by
wall-clock time, and the models alone by CPU time, which other work on the machine moves less.
Without --model the weights are random, and the predictions' own spread says nothing.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cloud_core.inference.engines import TorchEngine
from cloud_core.models.encoder import Packing
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.scope import encode
from cloud_core.scope.isolation import Encoded, encode_many
from cloud_core.scope.settings import EncoderSettings
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.sources.catalogue import open_source
from cloud_core.training.batches import Batches
from cloud_core.training.loop import Precision

PADDED = 64  # tokens
BATCH = 64


def published_string(row: pd.Series) -> str:
    """The official form by pymatgen and spglib, one structure at a time."""
    from pymatgen.core import Lattice, Structure

    lattice = Lattice(np.reshape(row["lattice"], (3, 3)))
    structure = Structure(lattice, row["species"].split(), np.reshape(row["abc"], (-1, 3)))
    return encode(structure, forms=("official",)).official or ""


class PaddedStrings(Dataset[tuple[Tensor, Tensor]]):
    """One string at a time, tokenized and padded on access."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.tokenizer = texts, Tokenizer()

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer.encode(self.texts[index])[:PADDED]
        mask = [True] * len(ids) + [False] * (PADDED - len(ids))
        return torch.tensor(ids + [self.tokenizer.pad_id] * (PADDED - len(ids))), torch.tensor(mask)


@torch.inference_mode()
def published_predictions(model: PropertyModel, texts: list[str]) -> np.ndarray:
    """Every padded place through every layer, as BERT implementations do."""
    model.eval()
    encoder, parts = model.encoder, []
    for ids, mask in DataLoader(PaddedStrings(texts), batch_size=BATCH):
        length = ids.shape[1]
        positions = torch.arange(length).expand_as(ids).reshape(-1)
        packing = Packing(len(ids), length, None, positions, mask[:, None, None, :])
        hidden = encoder.embeddings(ids.reshape(-1), positions)
        for layer in encoder.layers:
            hidden = layer(hidden, packing)
        first = hidden.view(len(ids), length, -1)[:, 0]
        parts.append(model.output(torch.nn.functional.silu(model.hidden(first)))[:, 0])
    return np.asarray(model.targets[0].unscale(torch.cat(parts)[:, None].numpy()))


def ours(model: PropertyModel, precision: Precision) -> Callable[[list[str]], np.ndarray]:
    engine, name = TorchEngine(model, "cpu"), model.targets[0].name
    engine.precision = precision
    return lambda texts: engine(Batches.of_texts(texts, model.config)).members[0][name]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", type=Path, help="a trained property model of one target")
    parser.add_argument("--structures", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = pd.read_parquet(options.file).sample(options.structures, random_state=0).reset_index(drop=True)
    geometry = EncoderConfig(
        hidden_size=options.hidden,
        layers=options.layers,
        heads=max(1, options.hidden // 64),
        feed_forward=4 * options.hidden,
    )
    model = PropertyModel(geometry, [Target("value")])
    if options.model is not None:
        model, _ = PropertyModel.load(options.model)
        geometry = model.config
    small = Path(f".screen-benchmark-{time.time_ns()}.parquet")
    rows.to_parquet(small)
    try:
        source = open_source(str(small))
        records = [record for part in source.partitions() for record in source.read(part)]
    finally:
        small.unlink()

    def encode_ours() -> list[str]:
        found = encode_many(records, EncoderSettings())
        return [item.scope.canonical for item in found if isinstance(item, Encoded)]

    routes: dict[str, tuple[Callable[[], list[str]], Callable[[list[str]], np.ndarray]]] = {
        "published shape, float32": (
            lambda: [published_string(row) for _, row in rows.iterrows()],
            lambda texts: published_predictions(model, texts),
        ),
        "ours, float32": (encode_ours, ours(model, "float32")),
        "ours, bfloat16": (encode_ours, ours(model, "bfloat16")),
    }
    best = {name: (float("inf"),) * 3 for name in routes}  # s: encode, model, model by CPU time
    values: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, (strings, predict) in routes.items():
            started = time.perf_counter()
            texts = strings()
            encoded, processor = time.perf_counter(), time.process_time()
            values[name] = predict(texts)
            done = time.perf_counter()
            seconds = (encoded - started, done - encoded, time.process_time() - processor)
            best[name] = tuple(map(min, best[name], seconds))
    print(
        f"{options.structures} structures, {geometry.layers} layers of {geometry.hidden_size}, "
        f"{options.threads} threads, {platform.machine()}, torch {torch.__version__}"
    )
    print(
        f"{'route':<26}{'encode s':>10}{'model s':>10}{'structures/s':>14}{'ratio':>8}{'model alone':>13}"
        f"{'its CPU s':>11}{'ratio':>8}"
    )
    slow = best["published shape, float32"]
    for name, (encoding, running, processor) in best.items():
        total = encoding + running
        print(
            f"{name:<26}{encoding:>10.2f}{running:>10.2f}{options.structures / total:>14.1f}"
            f"{(slow[0] + slow[1]) / total:>8.2f}{slow[1] / running:>13.2f}"
            f"{processor:>11.2f}{slow[2] / processor:>8.2f}"
        )
    exact = values["ours, float32"]
    off = np.abs(values["ours, bfloat16"] - exact)
    print(
        f"bfloat16 against float32: mean {off.mean() / exact.std():.4f}, max {off.max() / exact.std():.4f} "
        f"deviations of the predictions; max {off.max() / model.targets[0].deviation:.4f} of the labels"
    )


if __name__ == "__main__":
    main()
