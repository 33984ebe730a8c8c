"""What a pretraining run is: everything the ranks are told, as one JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cloud_core.files import write_json
from cloud_core.models.checkpoint import weights_digest
from cloud_core.models.encoder import EncoderConfig
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Strategy
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings


@dataclass(frozen=True)
class Job:
    """One pretraining run. `folder` gets metrics.jsonl, checkpoints/ and result.json; `model` the model.

    batch_size: strings of a global batch, whatever the number of ranks. micro_batch_tokens: about how many
    tokens a rank takes through the model at once; larger shares of a batch accumulate gradients. Intervals
    are in steps.
    """

    folder: str
    training: str  # files written by `Batches.save`
    validation: str
    model: str
    steps: int
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masking: Masking = field(default_factory=Masking)
    relabel: bool = False  # other names of the same crystals in each epoch
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    batch_size: int = 256
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    strategy: Strategy = "ddp"
    compile: bool = False
    micro_batch_tokens: int = 16_384
    log_every: int = 10
    validate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    start_from: str | None = None  # a model folder to take the first weights from
    metadata: dict[str, Any] = field(default_factory=dict)  # lineage, kept with the model

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.micro_batch_tokens < 2 * self.encoder.positions:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} must hold two strings of "
                f"{self.encoder.positions} tokens"
            )

    @classmethod
    def read(cls, path: str | Path) -> "Job":
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        optimiser = values["optimiser"] | {"betas": tuple(values["optimiser"]["betas"])}
        parts = {
            "encoder": EncoderConfig(**values["encoder"]),
            "masking": Masking(**values["masking"]),
            "optimiser": OptimiserSettings(**optimiser),
        }
        return cls(**values | parts)

    def write(self, path: str | Path) -> None:
        write_json(Path(path), asdict(self))

    def recipe(self, corpus: Batches) -> dict[str, Any]:
        """All that decides the outcome: a checkpoint continues only the same recipe."""
        keys = (
            "steps",
            "encoder",
            "masking",
            "relabel",
            "optimiser",
            "batch_size",
            "seed",
            "precision",
        )
        values = asdict(self)
        # By what it holds: it may lie somewhere else by now.
        start = None if self.start_from is None else weights_digest(self.start_from)
        # As JSON gives it back, so that it compares equal to what a checkpoint holds.
        recipe = {key: values[key] for key in keys} | {"corpus": corpus.digest, "start_from": start}
        return dict(json.loads(json.dumps(recipe)))
