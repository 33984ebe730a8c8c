"""θ_D and curves of single crystals: `cloud debye MODEL FILE… --temperatures 0:1000:10`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cloud_core.evaluation.thermal.data import parse_temperatures
from cloud_core.evaluation.thermal.plots import sweep_figure
from cloud_core.evaluation.thermal.table import ThermalError
from cloud_core.inference.predictor import OUTSIDE, Predictor
from cloud_core.inference.thermodynamics import thermodynamics
from cloud_core.models.targets import DEVIATION
from cloud_core.structures.formats import stem_of_name
from tasks.registry import resolve

THETA = "debye_temperature"


class Sweep(BaseModel):
    """One crystal over temperature; units as in `cloud_core.inference.thermodynamics.UNITS`."""

    structure: str
    scope: str | None = None
    debye_temperature: float | None = None
    debye_temperature_std: float | None = None
    out_of_distribution: str | None = None
    """why the model may be wrong here, where it can tell"""
    table: str | None = None
    """CSV of temperature and the curves"""
    figure: str | None = None
    error: str | None = None


def sweep(
    model: str,
    structures: Sequence[str | Path],
    temperatures: str = "0:1000:10",
    to: str | Path = "runs/debye",
) -> list[Sweep]:
    """Predict θ_D of each structure; write its curves as CSV and a picture of them into the folder `to`.

    Args:
        model: model folder, models:/… or runs:/… or name of a model that predicts `debye_temperature`.
        structures: files, or SCOPE strings of the model's form.
        temperatures: K, `first:last:step` or a list.

    Raises:
        RegistryError, CheckpointError: there is no such model.
        ThermalError: it predicts no Debye temperature, or the temperatures cannot be read.
    """
    import pandas as pd

    levels = parse_temperatures(temperatures)
    predictor = Predictor.load(resolve(model))
    if predictor.units.get(THETA) != "K":
        raise ThermalError(f"{model}: predicts no Debye temperature; `cloud predict` answers for others")
    for structure in structures:
        if "|" not in str(structure) and not Path(structure).is_file():
            raise ThermalError(f"{structure}: no such file")
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Sweep] = []
    written: set[str] = set()
    answers = predictor.predict_named([s if "|" in str(s) else Path(s) for s in structures])
    for number, (place, name, answer) in enumerate(answers, start=1):
        structure = f"{structures[place]}{name}"
        if answer["error"] is not None:
            results.append(Sweep(structure=structure, error=answer["error"]))
            continue
        stem = f"crystal-{number}" if "|" in structure else stem_of_name(str(structures[place]))
        stem += re.sub(r"[^\w.+-]", "_", name)
        if stem in written:
            stem += f"-{number}"
        written.add(stem)
        theta = answer[THETA]
        curves: dict[str, Any] = {
            name: values[0] for name, values in thermodynamics([theta], levels).items() if values.ndim == 2
        }
        table, picture = folder / f"{stem}.csv", folder / f"{stem}.png"
        pd.DataFrame(curves).to_csv(table, index=False)
        sweep_figure(curves, f"{stem}: θ = {theta:.0f} K").savefig(picture, dpi=110)
        results.append(
            Sweep(
                structure=structure,
                scope=answer["scope"],
                debye_temperature=theta,
                debye_temperature_std=answer.get(THETA + DEVIATION),
                out_of_distribution=answer.get(OUTSIDE),
                table=str(table),
                figure=str(picture),
            )
        )
    return results
