"""The whole chain: structures → table → encoder → property model → screening, Debye model → registry.

    cloud pipeline --config deployments/configs/pipeline.yaml

Each stage is the flow of that name, with its own configuration; the pipeline fills in what one stage hands to
the next (the table, the encoder, the model).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cloud_core.config import FlowConfig
from flows.debye import DebyeConfig, DebyeResult, debye
from flows.encode import EncodeConfig, EncodeResult, encode
from flows.finetune import FinetuneConfig, FinetuneResult, finetune
from flows.pretrain import NOT_COMPARED, PretrainConfig, PretrainResult, pretrain
from flows.screen import ScreenConfig, ScreenResult, screen
from tasks.registry import CHALLENGER, CHAMPION, resolve, set_champion
from tasks.reporting import publish_table

Stage = dict[str, Any]
SHOWN = ("F1", "DAF", "Precision", "Recall", "MAE", "R2")  # discovery metrics in the closing table


class PipelineConfig(FlowConfig):
    """A configuration for each stage, without what an earlier stage provides."""

    encode: Stage = Field(description="EncodeConfig")
    pretrain: Stage = Field(description="PretrainConfig without `table`")
    finetune: Stage = Field(
        description="FinetuneConfig without `table`; without `encoder` it starts from the pretrained one"
    )
    screen: Stage = Field(description="ScreenConfig without `model` and `known`")
    debye: Stage = Field(description="DebyeConfig; without `encoder` it starts from the pretrained one")
    predict: tuple[str, ...] = Field(
        default=(), description="structure files to predict with the registered model"
    )
    encoder_name: str = Field(default="encoder", description="of the pretrained encoder in the registry")
    model_name: str = Field(
        default="formation_energy_per_atom", description="of the property model in the registry"
    )
    debye_name: str = Field(default="debye", description="of the Debye model in the registry")

    @model_validator(mode="after")
    def _stages_are_whole(self) -> "PipelineConfig":
        """Every stage is checked before the first one starts; an hour later would be too late."""
        self.encode_config()
        self.pretrain_config()
        self.finetune_config("an encoder")
        self.screen_config("a model")
        self.debye_config("an encoder")
        return self

    def encode_config(self) -> EncodeConfig:
        return EncodeConfig.model_validate(self.encode)

    def pretrain_config(self) -> PretrainConfig:
        given = {"table": self.encode_config().table, "register_as": self.encoder_name}
        return PretrainConfig.model_validate(given | self.pretrain)

    def finetune_config(self, encoder: str) -> FinetuneConfig:
        given = {
            "table": self.encode_config().table, "encoder": encoder, "register_as": self.model_name,
        }  # fmt: skip
        return FinetuneConfig.model_validate(given | self.finetune)

    def screen_config(self, model: str) -> ScreenConfig:
        given = {"model": model, "known": {"table": self.encode_config().table}}
        return ScreenConfig.model_validate(given | self.screen)

    def debye_config(self, encoder: str) -> DebyeConfig:
        return DebyeConfig.model_validate({"encoder": encoder, "register_as": self.debye_name} | self.debye)


class Step(BaseModel):
    """A line of the closing table."""

    model_config = ConfigDict(frozen=True)

    step: str
    seconds: float
    figures: str
    where: str


class Prediction(BaseModel):
    """A registered model's answer for a structure file."""

    file: str
    values: dict[str, Any]


class PipelineResult(BaseModel):
    """What was done, how long it took, and where everything is."""

    steps: list[Step]
    encode: EncodeResult
    pretrain: PretrainResult
    finetune: FinetuneResult
    screen: ScreenResult
    debye: DebyeResult
    gates: dict[str, str]
    versions: dict[str, str]
    predictions: list[Prediction]


class Steps:
    """Collects the closing table, and says in the terminal what goes on."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done: list[Step] = []

    @contextmanager
    def step(self, title: str) -> Iterator[dict[str, str]]:
        """Fill `figures` and `where` of the yielded mapping."""
        print(f"\n[{len(self.done) + 1}/{self.total}] {title}", flush=True)
        started = time.monotonic()
        line = {"figures": "", "where": ""}
        yield line
        seconds = round(time.monotonic() - started, 1)
        self.done.append(Step(step=title, seconds=seconds, **line))
        print(f"      {line['figures']}  ({seconds} s)", flush=True)


@flow(name="pipeline", persist_result=False, validate_parameters=True)
def pipeline(config: PipelineConfig) -> PipelineResult:
    """Run every stage; a model that the gate does not pass is registered and printed, and not promoted."""
    steps = Steps(total=6)
    with steps.step("encode structures into the SCOPE table") as line:
        encoded = encode(config.encode_config())
        line |= {"figures": encode_line(encoded), "where": f"{encoded.table} version {encoded.version}"}
    with steps.step("pretrain the encoder (masked language model, torchrun)") as line:
        pretrained = pretrain(config.pretrain_config())
        line |= {"figures": pretrain_line(pretrained), "where": pretrained.model_folder}
    with steps.step("finetune the property model") as line:
        begin = config.finetune_config(pretrained.model_folder)
        finetuned = finetune(begin)
        line |= {"figures": finetune_line(finetuned), "where": finetuned.model_folder}
    with steps.step("screen candidates") as line:
        screened = screen(config.screen_config(finetuned.model_folder))
        line |= {"figures": screen_line(screened), "where": screened.shortlist}
    with steps.step("train the Debye model") as line:
        thermal = debye(config.debye_config(pretrained.model_folder))
        line |= {"figures": debye_line(thermal), "where": thermal.curves}
    with steps.step("predict from the registry") as line:
        encoder_gate = NOT_COMPARED.message
        if begin.encoder == pretrained.model_folder and finetuned.promoted and pretrained.registered:
            encoder_gate = f"passes: by {finetuned.registered}, which was finetuned from it"
            promote_encoder(pretrained.registered, encoder_gate)
        serving = f"models:/{config.model_name}@{CHAMPION if finetuned.promoted else CHALLENGER}"
        predictions = predict_from_registry(serving, config.predict)
        figures = f"{config.model_name} is {'promoted' if finetuned.promoted else 'registered, not promoted'}"
        line |= {"figures": figures, "where": serving}
    table = [step.model_dump() for step in steps.done]
    publish_table("pipeline", table, "What was done, how long it took, where it is")
    return PipelineResult(
        steps=steps.done,
        encode=encoded,
        pretrain=pretrained,
        finetune=finetuned,
        screen=screened,
        debye=thermal,
        gates={
            config.model_name: finetuned.gate,
            config.encoder_name: encoder_gate,
            config.debye_name: thermal.gate,
        },
        versions={
            config.model_name: version_of(finetuned.registered),
            config.encoder_name: version_of(pretrained.registered),
            config.debye_name: str(thermal.version),
        },
        predictions=predictions,
    )


def version_of(address: str | None) -> str:
    """Of models:/<name>/<version>; "" where nothing was registered."""
    return (address or "").rpartition("/")[2]


@task(cache_policy=NO_CACHE, persist_result=False)
def promote_encoder(address: str, why: str) -> None:
    """An encoder serves where the model that was finetuned from it passed its gate."""
    name, version = address.removeprefix("models:/").split("/")
    set_champion(name, version, why)


@task(cache_policy=NO_CACHE, persist_result=False)
def predict_from_registry(uri: str, files: tuple[str, ...]) -> list[Prediction]:
    """Load a model by its alias and predict structure files with it."""
    from cloud_core.inference.predictor import Predictor

    if not files:
        return []
    answers = Predictor.load(resolve(uri)).predict_named([Path(file) for file in files])
    return [Prediction(file=f"{files[place]}{name}", values=values) for place, name, values in answers]


def encode_line(result: EncodeResult) -> str:
    if result.wrote_nothing:
        return f"nothing to encode: all {result.n_records:,} structures are in the table already"
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(result.reasons.items()))
    return (
        f"{result.n_encoded:,} encoded, {result.n_quarantined} quarantined ({reasons}), "
        f"{result.n_skipped:,} there already"
    )


def pretrain_line(result: PretrainResult) -> str:
    shown = {
        key.removeprefix("validation/").replace("_", " "): value
        for key, value in result.metrics.items()
        if key.startswith("validation/") and not key.endswith("loss")
    }
    return "held-out strings: " + ", ".join(f"{key} {value:.3g}" for key, value in shown.items())


def finetune_line(result: FinetuneResult) -> str:
    parts = [f"{row['model']} {row['mae']:.3f}" for row in result.comparison if "mae" in row]
    return f"test MAE in {result.comparison[0]['unit']}: " + ", ".join(parts)


def screen_line(result: ScreenResult) -> str:
    parts = [f"{result.n_predicted:,} of {result.n_candidates:,} candidates predicted"]
    for subset, metrics in result.metrics.items():
        shown = ", ".join(f"{name} {metrics[name]:.3f}" for name in SHOWN if name in metrics)
        parts.append(f"{subset} ({result.n_evaluated} evaluated): {shown}")
    return "; ".join(parts + ([result.note] if result.note else []))


def debye_line(result: DebyeResult) -> str:
    return "test MAE/MAD: " + ", ".join(f"{row['model']} {row['MAE/MAD']:.3f}" for row in result.comparison)
