"""θ_D and curves of single crystals: `cloud debye MODEL FILE… --temperatures 0:1000:10`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from cloud_core.evaluation.thermal.data import ThermalError, parse_temperatures
from cloud_core.evaluation.thermal.plots import sweep_figure
from cloud_core.inference.predictor import Predictor
from cloud_core.structures.formats import stem_of_name
from tasks.registry import resolve


class Sweep(BaseModel):
    """One crystal over temperature; units as in `cloud_core.inference.thermodynamics.UNITS`."""

    structure: str
    scope: str | None = None
    debye_temperature: float | None = None
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
        model: model folder, models:/… or runs:/… of kind `debye`.
        structures: files, or SCOPE strings of the model's form.
        temperatures: K, `first:last:step` or a list.

    Raises:
        RegistryError, CheckpointError: there is no such model.
        ThermalError: it is no Debye model, or the temperatures cannot be read.
    """
    import pandas as pd

    levels = parse_temperatures(temperatures)
    predictor = Predictor.load(resolve(model))
    if not predictor.is_debye:
        raise ThermalError(f"{model}: not a Debye model; `cloud predict` answers for other kinds")
    predictor.temperatures = levels.tolist()
    for structure in structures:
        if "|" not in str(structure) and not Path(structure).is_file():
            raise ThermalError(f"{structure}: no such file")
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    answers = predictor.predict_named([s if "|" in str(s) else Path(s) for s in structures])
    for number, (place, name, answer) in enumerate(answers, start=1):
        structure = f"{structures[place]}{name}"
        if answer["error"] is not None:
            results.append(Sweep(structure=structure, error=answer["error"]))
            continue
        stem = f"crystal-{number}" if "|" in structure else stem_of_name(str(structures[place]))
        stem += re.sub(r"[^\w.+-]", "_", name)
        curves: dict[str, Any] = {
            name: np.array(values) for name, values in answer.items() if isinstance(values, list)
        }
        table, picture = folder / f"{stem}.csv", folder / f"{stem}.png"
        pd.DataFrame(curves).to_csv(table, index=False)
        sweep_figure(curves, f"{stem}: θ = {answer['debye_temperature']:.0f} K").savefig(picture, dpi=110)
        results.append(
            Sweep(
                structure=structure,
                scope=answer["scope"],
                debye_temperature=answer["debye_temperature"],
                table=str(table),
                figure=str(picture),
            )
        )
    return results
