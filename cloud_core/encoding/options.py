"""What is computed of each structure, and in what portions."""

from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from cloud_core.scope.settings import SETTINGS, EncoderSettings, Judgement


class EncodingOptions(BaseModel):
    """What is computed of each structure, and in what portions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forms: tuple[str, ...] = Field(
        default=("canonical", "resolved"),
        description="strings to compute: canonical, resolved, official, full",
    )
    symprec: float = Field(default=0.01, gt=0, description="symmetry tolerance, Å")
    angle_tolerance: float = Field(
        default=5.0, description="symmetry tolerance of angles, degrees; -1: the engine's own"
    )
    check_tolerance: bool = Field(
        default=False, description="flag structures whose space group moves at symprec / 2 or · 2"
    )
    formula: Judgement = Field(
        default="refuse",
        description="sites that give another composition than the stated formula: refuse or flag",
    )
    overlaps: Judgement = Field(
        default="refuse",
        description="atoms closer than 0.5 Å (hydrogen: 0.3 Å) with occupancies that sum to more than 1: "
        "refuse or flag",
    )
    assume_periodic: bool = Field(
        default=False, description="encode molecules, chains and layers as the crystals of their cells"
    )
    max_sites: int = Field(default=5000, ge=1, description="structures with more sites are refused")
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="CPU time that reading one structure may take, and that encoding it may take, s",
    )
    memory_mb: int | None = Field(
        default=1024, ge=256, description="memory that an encoding process may take for its work, MiB"
    )
    chunk_rows: int = Field(default=2000, ge=1, description="structures in one Dask task and one commit")
    shard_rows: int = Field(default=50_000, ge=1, description="structures in one Prefect task, about")

    @property
    @cache  # noqa: B019 (by value; a process has few)
    def settings(self) -> EncoderSettings:
        return EncoderSettings(**self.model_dump(include={*SETTINGS}))
