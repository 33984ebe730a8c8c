"""A scaling study: sizes × data fractions × budgets, one MLflow parent with a child for each encoder.

cloud run scaling --config deployments/configs/scaling.yaml
"""

from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Annotated, Any

import pandas as pd
from prefect import flow
from pydantic import Field, ValidationError, model_validator

from cloud_core.config import FlowConfig, explain
from cloud_core.evaluation.metrics.scaling import PowerLaw, fit_power_law, scaling_plot
from cloud_core.models.geometry import Geometry
from cloud_core.training.corpus import AnyGeometry
from flows.pretrain import PretrainConfig, pretrain
from tasks.reporting import publish_figure, publish_table
from tasks.tracking import tracked_run

# Of the law. Steps and not tokens seen, which move a little with each subset of the strings.
AXES = ("parameters", "training_tokens", "steps")


class ScalingConfig(FlowConfig):
    """What varies, and what all runs share."""

    pretrain: PretrainConfig = Field(
        description="shared by all runs; its training.encoder, data_fraction and steps vary"
    )
    sizes: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], AnyGeometry] = Field(
        min_length=1, description="encoders by name"
    )
    data_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0,), min_length=1, description="of the strings"
    )
    budgets: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="optimiser steps, each with its own schedule"
    )

    @model_validator(mode="after")
    def _each_can_be_run(self) -> "ScalingConfig":
        try:
            self.runs()
        except ValidationError as error:
            raise ValueError(explain(error, PretrainConfig)) from error
        return self

    def runs(self) -> list[tuple[str, int, PretrainConfig]]:
        """Every combination: the name of its size, its budget, and the whole configuration."""
        shared = self.pretrain.model_dump()
        return [
            (
                size,
                budget,
                PretrainConfig.model_validate(
                    shared
                    | {
                        "name": f"{self.pretrain.name}-{size}-{fraction:g}-{budget}",
                        "training": shared["training"] | {"encoder": encoder},
                        "data_fraction": fraction,
                        "steps": budget,
                        "epochs": None,
                    }
                ),
            )
            for (size, encoder), fraction, budget in product(
                self.sizes.items(), self.data_fractions, self.budgets
            )
        ]


@dataclass(frozen=True)
class ScalingResult:
    """The measured points, and the law through them where there are enough."""

    run_id: str
    points: list[dict[str, Any]] = field(default_factory=list)
    law: PowerLaw | None = None


def parameters(config: Geometry) -> int:
    """Weights of the layers, embeddings left out (Kaplan et al., arXiv 2001.08361)."""
    return config.layers * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.feed_forward)


@flow(name="scaling", persist_result=False)
def scaling(config: ScalingConfig) -> ScalingResult:
    """Pretrain every combination, fit a power law of the validation loss, and plot it."""
    base = config.pretrain
    points: list[dict[str, Any]] = []
    with tracked_run(base.experiment, f"{base.name}-scaling", config) as run:
        for size, budget, planned in config.runs():
            result = pretrain(planned.model_copy(update={"parent_run_id": run.run_id, "registered": False}))
            tokens = int(run.client.get_run(result.run_id).data.params["corpus.training_tokens"])
            strings = int(run.client.get_run(result.run_id).data.params["corpus.training_strings"])
            points.append(
                {
                    "size": size,
                    "data_fraction": planned.data_fraction,
                    "steps": budget,
                    "parameters": parameters(planned.training.encoder),
                    "training_tokens": tokens,
                    "tokens_seen": round(budget * min(base.training.batch_size, strings) * tokens / strings),
                    "validation_loss": result.metrics["validation/loss"],
                    "run_id": result.run_id,
                }
            )
            run.log_metrics({"validation/loss": points[-1]["validation_loss"]}, step=len(points))
        loss = [point["validation_loss"] for point in points]
        axes = {name: [float(point[name]) for point in points] for name in AXES}
        law = fit_power_law(loss, axes)
        run.log_table(pd.DataFrame(points), "scaling.json")
        publish_table(f"{base.name}-scaling", points, str(law) if law else "too few points for a power law")
        if law is not None:
            run.log_metrics({"law/floor": law.floor, "law/residual": law.residual})
            run.log_metrics({f"law/exponent_{name}": value for name, value in law.exponents.items()})
            run.log_text(str(asdict(law)), "law.txt")
        figure = scaling_plot(loss, axes, [point["size"] for point in points], law)
        run.log_figure(figure, "scaling.png")
        publish_figure(f"{base.name}-scaling", figure, "Validation loss by size, data and budget")
    return ScalingResult(run.run_id, points, law)
