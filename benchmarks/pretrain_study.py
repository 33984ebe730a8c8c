"""Train an encoder on all structures at hand and say what it learnt, on crystals that it has not seen.

    python benchmarks/corpus.py --shared ../shared --to runs/corpus
    python benchmarks/pretrain_study.py runs/corpus --config deployments/configs/pretrain-small.yaml

Two runs of the pretraining flow with the recipe of the configuration, its table replaced by the corpus:
without the hold-out of benchmarks/corpus.py, and with it. Both then predict masked words of the
held-out crystals.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from cloud_core.models.checkpoint import load_encoder
from cloud_core.training.corpus import Corpus
from cloud_core.training.distributed import Ranks
from cloud_core.training.objective import Objective, evaluate
from flows.cli import use_embedded_prefect

FIELDS = ("generator", "wyckoff", "element", "fraction")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path, help="folder that benchmarks/corpus.py wrote")
    parser.add_argument("--config", type=Path, default=Path("deployments/configs/pretrain-small.yaml"))
    parser.add_argument("--steps", type=int, help="instead of the configuration's length")
    parser.add_argument("--variants", nargs="+", default=["strings", "with-held-out"])
    options = parser.parse_args()
    use_embedded_prefect()
    from flows.pretrain import PretrainConfig, pretrain, read_lines_of

    held_out = Corpus.from_texts(read_lines_of(options.corpus / "held-out.txt"))
    recipe = PretrainConfig.from_yaml(options.config)
    print(f"{len(held_out)} held-out strings; encoder {recipe.encoder}")
    print(f"| trained on | strings | steps | loss | perplexity | {' | '.join(FIELDS)} |\n|{'---|' * 9}")
    for variant in options.variants:
        changes: dict[str, Any] = {"table": None, "texts": options.corpus / f"{variant}.txt"}
        changes |= {"name": f"{recipe.name}-{variant}", "experiment": "pretrain-study"}
        changes |= {"steps": options.steps, "epochs": None} if options.steps else {}
        result = pretrain(PretrainConfig.model_validate(recipe.model_dump() | changes))
        model, metadata = load_encoder(result.model_folder)
        measured = evaluate(Objective(model), held_out, Ranks(0, 1, torch.device("cpu")))
        accuracies = [f"{measured[f'validation/masked_accuracy_{name}']:.1%}" for name in FIELDS]
        strings = len(read_lines_of(options.corpus / f"{variant}.txt"))
        loss, perplexity = measured["validation/loss"], measured["validation/perplexity"]
        row = [variant, f"{strings:,}", metadata["step"], f"{loss:.3f}", f"{perplexity:.2f}", *accuracies]
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
