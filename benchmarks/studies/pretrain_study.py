"""Train an encoder on all structures at hand and say what it learnt, on crystals that it has not seen.

    python benchmarks/studies/corpus.py --shared ../shared --to runs/corpus
    python benchmarks/studies/pretrain_study.py runs/corpus --steps 12000

Two runs of the pretraining flow with the recipe of the configuration, its table replaced by the corpus:
without the hold-out of corpus.py, and with it. Both then predict masked tokens of the held-out
crystals. `--variants` names one of the two, so that each can have a core of its own.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloud_core.models.checkpoint import load_encoder
from cloud_core.scope.tokenizer import FIELDS
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Ranks
from cloud_core.training.losses.masked import VALIDATION_EPOCH, evaluate
from cloud_core.training.losses.mlm import Objective
from cloud_core.training.masking import Masking, Tokens, choose
from flows.cli.shell import use_embedded_prefect

REPORTED = ("generator", "wyckoff", "element", "fraction")


def commonest(training: Batches, held_out: Batches) -> list[float]:
    """Accuracies of a constant guess: each field's commonest word, at the places that `evaluate` asks for."""
    tokens = Tokens.of(held_out, np.arange(len(held_out)))
    asked = choose(tokens, Masking(), 0, VALIDATION_EPOCH)
    guesses = []
    for name in REPORTED:
        field = FIELDS.index(name)
        guess = np.bincount(training.ids[training.fields == field]).argmax()
        guesses.append(float((tokens.ids[asked & (tokens.fields == field)] == guess).mean()))
    return guesses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path, help="folder that benchmarks/studies/corpus.py wrote")
    parser.add_argument("--config", type=Path, default=Path("deployments/configs/pretrain-study.yaml"))
    parser.add_argument("--steps", type=int, help="instead of the configuration's length")
    parser.add_argument("--variants", nargs="+", default=["strings", "with-held-out"])
    options = parser.parse_args()
    use_embedded_prefect()
    from cloud_core.training.corpus import read_texts
    from flows.pretrain import PretrainConfig, pretrain

    held_out = Batches.distinct(read_texts(options.corpus / "held-out.txt"))
    recipe = PretrainConfig.from_yaml(options.config)
    print(f"{len(held_out)} held-out strings; encoder {recipe.training.encoder}")
    print(f"| trained on | strings | steps | loss | perplexity | {' | '.join(REPORTED)} |\n|{'---|' * 9}")
    for variant in options.variants:
        texts = read_texts(options.corpus / f"{variant}.txt")
        changes: dict[str, Any] = {"table": None, "texts": options.corpus / f"{variant}.txt"}
        changes |= {"name": f"{recipe.name}-{variant}", "experiment": "pretrain-study"}
        changes |= {"steps": options.steps, "epochs": None} if options.steps else {}
        result = pretrain(PretrainConfig.model_validate(recipe.model_dump() | changes))
        model, metadata = load_encoder(result.model_folder)
        measured = evaluate(Objective(model), held_out, Ranks(0, 1, torch.device("cpu")))
        loss, perplexity = measured["validation/loss"], measured["validation/perplexity"]
        learnt = [measured[f"validation/masked_accuracy_{name}"] for name in REPORTED]
        cells = [variant, f"{len(texts):,}", metadata["step"], f"{loss:.3f}", f"{perplexity:.2f}"]
        print(row([*cells, *(f"{value:.1%}" for value in learnt)]), flush=True)
    constant = commonest(Batches.distinct(texts), held_out)
    print(row(["(each field's commonest word)", *[""] * 4, *(f"{value:.1%}" for value in constant)]))


def row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
