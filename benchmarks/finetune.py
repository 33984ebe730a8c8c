"""Finetuning speed: our loop beside one of the published shape, side by side in one process.

    python benchmarks/finetune.py [--layers 4 --hidden 256 …]

The published loop tokenizes each string when its turn comes, in a Python data set, pads it to 64 tokens, and
computes every padded place in float32. Ours tokenizes once and computes real tokens only. Both start from the
same weights, see the same strings and take the same number of steps. Rounds alternate, and the best of each
is kept.

So that nobody trades errors for speed, a small encoder is then fitted by each loop until it has learned, and
the errors on held-back rows are printed beside that of the training mean: after the two epochs that speed is
taken from, every loop would be as good as that.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.batches import Batches
from cloud_core.training.fit import LABELS, property_loss
from cloud_core.training.loop import FitSettings, alone, fit, outputs
from cloud_core.training.optimiser import OptimiserSettings, schedule

PADDED = 64  # tokens
PUBLISHED = "published shape, float32"
LOOPS = (PUBLISHED, "ours, float32", "ours, bfloat16")
SMALL = (2, 128)  # layers and width of the encoder that errors are compared with


class PaddedStrings(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One string at a time, tokenized and padded on access."""

    def __init__(self, texts: list[str], labels: np.ndarray) -> None:
        self.texts, self.labels, self.tokenizer = texts, labels, Tokenizer()

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        ids = self.tokenizer.encode(self.texts[index])[:PADDED]
        mask = [1] * len(ids) + [0] * (PADDED - len(ids))
        ids = ids + [self.tokenizer.pad_id] * (PADDED - len(ids))
        return torch.tensor(ids), torch.tensor(mask), torch.tensor(self.labels[index])


class PaddedModel(nn.Module):
    """The same weights, computed at every padded place, as BERT implementations do."""

    def __init__(self, model: PropertyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        encoder = self.model.encoder
        positions = torch.arange(ids.shape[1]).expand_as(ids).reshape(-1)
        hidden = encoder.embeddings(ids.reshape(-1), positions)
        for layer in encoder.layers:
            attention = layer.attention
            split = attention.query_key_value(hidden).view(*ids.shape, 3, attention.heads, -1)
            query, key, value = split.permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask.bool()[:, None, None],
                dropout_p=attention.dropout if self.training else 0.0,
            )
            context = attention.output(mixed.transpose(1, 2).reshape(len(hidden), -1))
            hidden = layer.attention_norm(hidden + layer.dropout(context))
            wide = nn.functional.gelu(layer.expand(hidden))
            hidden = layer.feed_forward_norm(hidden + layer.dropout(layer.contract(wide)))
        first = hidden.view(*ids.shape, -1)[:, 0]
        model = self.model
        return model.output(model.dropout(nn.functional.silu(model.hidden(model.dropout(first)))))


def published_shape(
    model: PropertyModel, texts: list[str], labels: np.ndarray, settings: FitSettings
) -> float:
    """Rows per second of training."""
    padded = PaddedModel(model).train()
    loader = DataLoader(PaddedStrings(texts, labels), settings.batch_size, shuffle=True)
    optimiser = torch.optim.AdamW(padded.parameters(), lr=settings.optimiser.learning_rate, weight_decay=0.01)
    steps, step = settings.epochs * len(loader), 0
    started = time.perf_counter()
    for _ in range(settings.epochs):
        for ids, mask, label in loader:
            for group in optimiser.param_groups:
                rate = schedule(step, steps, settings.optimiser)
                group["lr"] = settings.optimiser.learning_rate * rate
            loss = nn.functional.l1_loss(padded(ids, mask), label)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(padded.parameters(), settings.optimiser.clip_norm)
            optimiser.step()
            step += 1
    return settings.epochs * len(texts) / (time.perf_counter() - started)


@dataclass(frozen=True)
class Rows:
    """Strings with labels in scaled units, split in two."""

    target: Target
    texts: list[str]
    values: np.ndarray
    held: int

    @property
    def labels(self) -> np.ndarray:
        return self.target.scale(self.values).astype(np.float32)[:, None]

    def examples(self, part: slice) -> Batches:
        return Batches.of_rows(self.texts[part], {LABELS: self.labels[part]})


def contest(
    rows: Rows, geometry: EncoderConfig, settings: FitSettings, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(rows per second of training, error on the held-back rows) of each loop in each round."""
    train, test = rows.examples(slice(rows.held, None)), rows.examples(slice(rows.held))
    torch.manual_seed(0)
    start = PropertyModel(geometry, [rows.target]).state_dict()
    loss = property_loss([rows.target], np.ones(1))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in LOOPS}
    for number in range(rounds):
        for name in LOOPS:
            model = PropertyModel(geometry, [rows.target])
            model.load_state_dict(start)
            torch.manual_seed(number)
            if name == PUBLISHED:
                rate = published_shape(model, rows.texts[rows.held :], rows.labels[rows.held :], settings)
            else:
                chosen = replace(settings, seed=number, precision="bfloat16" if "bf" in name else "float32")
                # The rate leaves validation out; the weights are those of the last epoch, as above.
                fitted = fit(model, train, test.take(np.arange(1)), chosen, loss, keep_best=False)
                rate = len(fitted.epochs) / sum(1 / epoch.rows_per_second for epoch in fitted.epochs)
            predicted = rows.target.unscale(outputs(model, test))
            found[name].append((rate, float(np.abs(predicted - rows.values[: rows.held]).mean())))
    return found


def geometry(layers: int, hidden: int) -> EncoderConfig:
    return EncoderConfig(hidden_size=hidden, layers=layers, heads=hidden // 64, feed_forward=4 * hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--file", type=Path, default=Path("flows/demo_data/heat_capacity.csv"))
    parser.add_argument("--scope", default="cloud")
    parser.add_argument("--label", default="cv")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2, help="to take the speed from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--learn", type=int, default=12, help="epochs to take the errors from; 0: none")
    parser.add_argument("--seeds", type=int, default=2, help="to take the errors from")
    arguments = parser.parse_args()
    frame = pd.read_csv(arguments.file).sample(frac=1.0, random_state=0)
    texts, values = frame[arguments.scope].tolist(), frame[arguments.label].to_numpy(float)
    held = len(texts) // 5
    rows = Rows(Target(arguments.label).fitted(values[held:]), texts, values, held)
    settings = FitSettings(
        epochs=arguments.epochs,
        batch_size=32,
        optimiser=OptimiserSettings(learning_rate=2e-4, layer_decay=1.0),
        patience=None,
        averaging=None,
    )
    train = rows.examples(slice(held, None))
    print(
        f"{len(train)} rows of {np.diff(train.offsets).mean():.1f} tokens, batches of {settings.batch_size}, "
        f"{arguments.layers} layers of {arguments.hidden}, {torch.get_num_threads()} threads, "
        f"{alone().device}"
    )
    if arguments.rounds:
        found = contest(rows, geometry(arguments.layers, arguments.hidden), settings, arguments.rounds)
        best = {name: max(rate for rate, _ in pairs) for name, pairs in found.items()}
        print(f"{'':28}{'rows/s':>9}{'ratio':>8}  best of {arguments.rounds} rounds")
        for name, rate in best.items():
            print(f"{name:28}{rate:9.0f}{rate / best[PUBLISHED]:8.2f}")
    if arguments.learn:
        longer = replace(
            settings, epochs=arguments.learn, optimiser=replace(settings.optimiser, learning_rate=1e-3)
        )
        found = contest(rows, geometry(*SMALL), longer, arguments.seeds)
        layers, hidden = SMALL
        print(f"test MAE over {arguments.seeds} seeds, {layers} layers of {hidden}, {arguments.learn} epochs")
        for name, pairs in found.items():
            errors = [error for _, error in pairs]
            print(f"{name:28}{np.mean(errors):9.4g} ± {np.std(errors):.2g}")
        mean = np.abs(values[:held] - values[held:].mean()).mean()
        print(f"{'training mean':28}{mean:9.4g}")


if __name__ == "__main__":
    main()
