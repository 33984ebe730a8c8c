"""Fast must not mean different: loss curves of our encoder and of `BertForMaskedLM(vocab_size=564)`.

    python benchmarks/studies/pretrain_agreement.py STRINGS.csv [--steps 500]

The same initial weights, batches and masks, the same optimiser and schedule; the dropout of each its own. A
second run of ours with other dropout says how large the noise is. Prints the losses by parts of the run.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.hugging_face import GEOMETRY, from_bert
from cloud_core.training.batches import Batches, epoch_batches
from cloud_core.training.distributed import Ranks
from cloud_core.training.losses.masked import micro_batches
from cloud_core.training.losses.mlm import MicroBatch
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings, adamw, schedule, set_learning_rate

CONFIG = EncoderConfig(hidden_size=128, layers=2, heads=4, feed_forward=512)
SETTINGS = OptimiserSettings(learning_rate=1e-3)


def hugging_face() -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(**{theirs: getattr(CONFIG, ours) for ours, theirs in GEOMETRY.items()}))


def padded_loss(model: BertForMaskedLM, batch: MicroBatch) -> Tensor:
    """As the published loop computes it: padded to 64, labels of -100 where nothing is asked."""
    packing = batch.packing
    lengths = torch.bincount(torch.cumsum(packing.positions == 0, 0) - 1)
    real = torch.arange(64) < lengths[:, None]
    ids = torch.ones(len(lengths), 64, dtype=torch.long).masked_scatter(real, batch.ids)
    wanted = torch.full_like(batch.ids, -100).index_copy(0, batch.masked, batch.targets)
    labels = torch.full((len(lengths), 64), -100).masked_scatter(real, wanted)
    return model(input_ids=ids, attention_mask=real.long(), labels=labels).loss


def packed_loss(model: MaskedLanguageModel, batch: MicroBatch) -> Tensor:
    return F.cross_entropy(model.masked_logits(batch.ids, batch.packing, batch.masked), batch.targets)


def curve(
    model: nn.Module,
    loss_of: Callable[..., Tensor],
    corpus: Batches,
    steps: int,
    batch: int,
    seed: int,
) -> np.ndarray:
    """Loss at each step, `[steps]`; `seed` is the dropout's."""
    optimiser = adamw(model.train(), CONFIG.layers, SETTINGS)
    alone = Ranks(0, 1, torch.device("cpu"))
    per_epoch = len(epoch_batches(len(corpus), batch, 0, 0))
    torch.manual_seed(seed)
    losses = []
    for step in range(steps):
        epoch, index = divmod(step, per_epoch)
        rows = epoch_batches(len(corpus), batch, 0, epoch)[index]
        (part,), _ = micro_batches(corpus, rows, Masking(), 0, epoch, alone, 10**9)
        set_learning_rate(optimiser, schedule(step, steps, SETTINGS))
        loss = loss_of(model, part)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return np.array(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("strings", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    corpus = Batches.distinct(line for line in options.strings.read_text().splitlines() if "|" in line)
    torch.manual_seed(0)
    start = hugging_face().state_dict()

    def ours() -> MaskedLanguageModel:
        model = MaskedLanguageModel(CONFIG)
        model.load_state_dict(from_bert(start, CONFIG.layers, Path("start")))
        return model

    theirs = hugging_face()
    theirs.load_state_dict(start)
    sizes = (corpus, options.steps, options.batch)
    curves = {
        "BertForMaskedLM(vocab_size=564)": curve(theirs, padded_loss, *sizes, seed=1),
        "ours": curve(ours(), packed_loss, *sizes, seed=2),
        "ours, other dropout": curve(ours(), packed_loss, *sizes, seed=3),
    }
    parts = np.array_split(np.arange(options.steps), 5)
    heads = " | ".join(f"steps {part[0] + 1}-{part[-1] + 1}" for part in parts)
    print(f"| mean loss | {heads} |\n|{'---|' * 6}")
    for name, losses in curves.items():
        print(f"| {name} | " + " | ".join(f"{losses[part].mean():.4f}" for part in parts) + " |")
    theirs_losses, first, second = curves.values()
    for name, gap in (("ours - BERT", first - theirs_losses), ("ours - ours", first - second)):
        print(f"{name}: mean {gap.mean():+.4f}, root mean square {np.sqrt((gap**2).mean()):.4f}")


if __name__ == "__main__":
    main()
