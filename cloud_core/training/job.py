"""What the ranks of a training run are told: plain dataclasses that a flow's configuration holds as they are,
and that travel as one JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cloud_core.files import write_json
from cloud_core.models.debye_model import HIGHEST, LOWEST, Quantity
from cloud_core.models.folder import weights_digest
from cloud_core.models.geometry import EncoderConfig, Geometry, SitesConfig
from cloud_core.models.pooling import Pooling
from cloud_core.models.targets import Target
from cloud_core.training.batches import Batches
from cloud_core.training.distributed import Strategy
from cloud_core.training.masking import Masking
from cloud_core.training.optimiser import OptimiserSettings

Precision = Literal["float32", "bfloat16"]
Objective = Literal["l1", "l2", "huber"]
Basis = Literal["cell", "atom"]

RESULT = "result.json"
PREDICTIONS = "predictions.safetensors"
LABELS = "labels"  # column `[rows, targets]` in physical units or class indices; nan where there is none
PARTS = ("train", "validation", "test")

T = TypeVar("T")


@dataclass(frozen=True)
class PretrainSettings:
    """How an encoder is pretrained.

    relabel: in each epoch, equivalent Wyckoff letters and another order of symbols. batch_size: strings of a
    global batch, whatever the number of ranks. precision: bfloat16 is autocast. strategy: fsdp shards weights
    and optimiser (FSDP2). micro_batch_tokens: about how many tokens a rank takes through the model at once;
    larger shares of a batch accumulate gradients. Intervals are in steps.
    """

    encoder: Geometry = field(default_factory=EncoderConfig)
    masking: Masking = field(default_factory=Masking)
    relabel: bool = False
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    batch_size: int = 256
    seed: int = 0
    precision: Precision = "float32"
    strategy: Strategy = "ddp"
    compile: bool = False
    micro_batch_tokens: int = 16_384
    log_every: int = 10
    validate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if isinstance(self.encoder, SitesConfig):
            if self.relabel or replace(self.masking, rate=Masking().rate) != Masking():
                raise ValueError("sites: of `masking` only the rate applies, and there is no `relabel`")
        elif self.micro_batch_tokens < 2 * self.encoder.positions:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} must hold two strings of "
                f"{self.encoder.positions} tokens"
            )


@dataclass(frozen=True)
class FitSettings:
    """How a model is fitted to labels; the defaults are for the encoder of sites that comes with the package.

    frozen_epochs: the encoder is frozen for so many. patience: epochs without a better validation loss
    after which to stop, frozen ones counted too (None: never). objective: what regression minimises, in
    scaled units; classification has its cross-entropy. pooling: the vector of a string, its first token's as
    published, or the mean over its tokens. dropout: while it is fitted; None is the encoder's own.
    averaging: validated and kept are weights averaged over the steps with this decay (Polyak and Juditsky,
    1992); None keeps those of the last step.
    """

    epochs: int = 60
    batch_size: int = 32
    optimiser: OptimiserSettings = field(
        default_factory=lambda: OptimiserSettings(
            learning_rate=3e-4, weight_decay=0.02, betas=(0.9, 0.99), warmup=0.05
        )
    )
    frozen_epochs: int = 0
    patience: int | None = 15
    seed: int = 0
    precision: Precision = "float32"
    objective: Objective = "l1"
    pooling: Pooling = "first"
    dropout: float | None = None
    averaging: float | None = 0.99

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError("epochs, batch_size and patience must be at least 1")
        if not 0 <= self.frozen_epochs <= self.epochs:
            raise ValueError(
                f"frozen_epochs {self.frozen_epochs} must lie between 0 and epochs {self.epochs}"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share below 1, not {self.dropout}")
        if self.averaging is not None and not 0 <= self.averaging < 1:
            raise ValueError(f"averaging is a decay below 1, not {self.averaging}")


@dataclass(frozen=True)
class ThermalSettings:
    """The Debye model's loss and bounds.

    loss_per: mole of cells or of atoms; lowest_theta, highest_theta in K. quantity and temperatures (K): of
    the labels, whose column `values` is `[rows, temperatures]` per mole of atoms, nan where there is none,
    beside `n_atoms` `[rows]`.
    """

    loss_per: Basis = "atom"
    lowest_theta: float = LOWEST
    highest_theta: float = HIGHEST
    quantity: Quantity = "heat_capacity"
    temperatures: tuple[float, ...] = ()


class _Job:
    """What both kinds of jobs do with files."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        return from_json(cls, json.loads(Path(path).read_text(encoding="utf-8")))

    def write(self, path: str | Path) -> Path:
        return write_json(path, asdict(self))  # type: ignore[call-overload]


@dataclass(frozen=True)
class PretrainJob(_Job):
    """One pretraining run. `folder` gets metrics.jsonl, checkpoints/ and result.json; `model` the model.

    training, validation: files of `Batches.save`. start_from: a model folder to take the first weights from.
    metadata: lineage, kept with the model.
    """

    folder: str
    training: str
    validation: str
    model: str
    steps: int
    settings: PretrainSettings = field(default_factory=PretrainSettings)
    start_from: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")

    def recipe(self, corpus: Batches) -> dict[str, Any]:
        """All that decides the outcome: a checkpoint continues only the same recipe."""
        values = asdict(self.settings)
        keys = ("encoder", "masking", "relabel", "optimiser", "batch_size", "seed", "precision")
        # By what it holds: it may lie somewhere else by now.
        start = None if self.start_from is None else weights_digest(self.start_from)
        recipe = {key: values[key] for key in keys} | {"steps": self.steps, "corpus": corpus.digest}
        # As JSON gives it back, so that it compares equal to what a checkpoint holds.
        return dict(json.loads(json.dumps(recipe | {"start_from": start})))


@dataclass(frozen=True)
class FitJob(_Job):
    """One fit of one model on one split with one seed. `folder` gets metrics.jsonl, the predictions and,
    last, result.json; `model` the model.

    examples: a folder with train, validation and test .safetensors (`Batches.save`) whose column `labels` has
    a place for each of `targets`; with `thermal`, the columns that that needs, and no targets. Exactly one of
    start_from (a model folder whose encoder is taken) and from_scratch is given. metadata: lineage, kept with
    the model.
    """

    folder: str
    examples: str
    model: str
    targets: tuple[Target, ...] = ()
    settings: FitSettings = field(default_factory=FitSettings)
    thermal: ThermalSettings | None = None
    start_from: str | None = None
    from_scratch: Geometry | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.start_from is None) == (self.from_scratch is None):
            raise ValueError("give either start_from, the folder of a pretrained encoder, or from_scratch")
        if bool(self.targets) == (self.thermal is not None):
            raise ValueError("give either targets or thermal")

    @property
    def file(self) -> Path:
        """Where the ranks find it."""
        return Path(self.folder) / "job.json"

    def load(self, part: str) -> Batches:
        return Batches.load(Path(self.examples) / f"{part}.safetensors")

    def result(self) -> dict[str, Any] | None:
        """What a finished job left; None for one that is not."""
        path = Path(self.folder) / RESULT
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def predictions(self, part: str) -> dict[str, NDArray[np.float64]]:
        """Predictions of a finished job by target, in physical units or class probabilities."""
        tensors = load_file(Path(self.folder) / PREDICTIONS)
        prefix = f"{part}."
        return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from what `asdict` and JSON made of it: with the dataclasses and tuples inside it."""
    hints = get_type_hints(kind)
    return kind(**{name: _restored(hints[name], value) for name, value in values.items()})


def _restored(hint: Any, value: Any) -> Any:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    inside = [option for option in options if is_dataclass(option)]
    if isinstance(value, dict) and inside:
        fitting = (option for option in inside if value.keys() <= get_type_hints(option).keys())
        return from_json(next(fitting, inside[0]), value)  # type: ignore[arg-type]
    for option in options:
        if isinstance(value, list) and get_origin(option) is tuple:
            return tuple(_restored(get_args(option)[0], item) for item in value)
    return value
