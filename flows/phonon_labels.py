"""Labels of C_v(T) and U(T) from phonon densities of states, to train a Debye model on.

cloud run phonon_labels --config deployments/configs/debye_phonon_labels.yaml
"""

from pathlib import Path

from prefect import flow
from pydantic import BaseModel, Field

from cloud_core.config import FlowConfig
from cloud_core.evaluation.thermal.data import ThermalData
from cloud_core.evaluation.thermal.phonon_labels import PhononCounts, PhononData, PhononLabels
from tasks.phonons import label_phonons
from tasks.reporting import publish_table


class PhononLabelsConfig(FlowConfig):
    """Densities of states, known heat capacities to check them by, and where the labels go."""

    data: PhononData
    known: ThermalData = Field(
        description="heat capacities at one temperature, for many of the same crystals"
    )
    labels: PhononLabels = Field(
        default=PhononLabels(), description="temperatures, and which rows are trusted"
    )
    to: Path = Field(Path("runs/thermal/phonon_labels.parquet"), description="Parquet file to write")


class PhononLabelsResult(BaseModel):
    """Rows in = rows written + rows left out, each for its reason."""

    path: str
    counts: PhononCounts


@flow(name="phonon-labels", persist_result=False, validate_parameters=True)
def phonon_labels(config: PhononLabelsConfig) -> PhononLabelsResult:
    counts = label_phonons(config.data, config.known, config.labels, str(config.to))
    publish_table("phonon-labels", [counts.model_dump()], "What became of the densities of states")
    return PhononLabelsResult(path=str(config.to), counts=counts)
