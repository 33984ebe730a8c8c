"""Predicted heat capacities and energies beside known ones, and beside what any claim must beat."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cloud_core.evaluation.metrics.regression import mae_over_mad, regression_metrics
from cloud_core.evaluation.promotion import ComparedRows
from cloud_core.evaluation.thermal.plots import (
    AXIS_LABELS,
    curves,
    errors_by_temperature,
    parity,
    sweep_figure,
)
from cloud_core.evaluation.thermal.table import Parts, ThermalTable
from cloud_core.inference.predictor import Predictor
from cloud_core.inference.thermodynamics import thermodynamics
from cloud_core.models.debye_model import evaluate
from cloud_core.models.folder import CheckpointError
from cloud_core.scope import canonicalise
from cloud_core.training.job import Basis
from cloud_core.training.losses.thermal import THETA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

MODEL = "Debye model"
CONTROL = "control: mean per atom × n_atoms"
BEST = "best θ of each crystal"


def control(parts: Parts) -> FloatArray:
    """The training rows' mean per atom at each temperature, for each test row: [N, K] per atom."""
    (mean,) = parts.between(np.nanmean(parts.train.values, axis=0)[None])
    return np.broadcast_to(mean, parts.test.values.shape)


def dummy(parts: Parts, basis: Basis) -> FloatArray:
    """The training rows' mean at each temperature, for each test row: what MAE/MAD is relative to, [N, K]."""
    (means,) = parts.between(np.nanmean(parts.train.scaled(parts.train.values, basis), axis=0)[None])
    return np.broadcast_to(means, parts.test.values.shape)


def compare(parts: Parts, contenders: Mapping[str, FloatArray], basis: Basis) -> list[dict[str, Any]]:
    """One row a model: errors on all test labels at temperatures trained on, and at those held out.

    Args:
        contenders: name -> predictions [N, K] of the test rows, per atom.
        basis: of the figures, per mole of cells or of atoms.
    """
    test, means = parts.test, dummy(parts, basis)
    true = test.scaled(test.values, basis)
    rows = []
    for name, values in contenders.items():
        predicted = test.scaled(values, basis)
        row: dict[str, Any] = {"model": name}
        for prefix, columns in (("", ~parts.held_out), ("held-out T: ", parts.held_out)):
            known = ~np.isnan(true) & columns
            if known.any():
                found = regression_metrics(true[known], predicted[known], means[known])
                row |= {
                    f"{prefix}MAE": round(found["mae"], 4),
                    f"{prefix}MAE/MAD": round(found["mae_over_mad"], 4),
                    f"{prefix}R2": round(found["r2"], 4),
                }
        rows.append(row)
    return rows


def compared(
    parts: Parts, theta: FloatArray, basis: Basis, form: str, seen: NDArray[np.bool_] | None
) -> ComparedRows:
    """What the gate compares: for each test crystal the mean error over its labels, beside the control's.

    seen: `[N]` test crystals that the start was trained on the Debye temperature of.
    """
    test = parts.test

    def errors(values: FloatArray) -> FloatArray:
        return np.nanmean(np.abs(test.scaled(values - test.values, basis)), axis=1)

    def champion_errors(folder: Path) -> FloatArray:
        predictor = Predictor.load(folder)
        if predictor.form != form:
            raise CheckpointError(f"it reads {predictor.form} strings, not {form} ones")
        found = predictor.predict_texts(test.texts)
        if THETA not in found:
            raise CheckpointError("it predicts no Debye temperature")
        return errors(test.curves(np.asarray(found[THETA])))

    return ComparedRows(
        label=THETA,
        unit="J/mol" if test.quantity != "heat_capacity" else "J/(mol K)",
        keys=[canonicalise(text) for text in test.texts],
        errors=errors(test.curves(theta)),
        references={CONTROL: errors(control(parts))},
        seen=seen,
        champion_errors=champion_errors,
    )


def own_keys(parts: Parts) -> list[str]:
    """Canonical strings of the crystals that are trained and validated on."""
    return [canonicalise(text) for part in (parts.train, parts.validation) for text in part.texts]


def as_metrics(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """A row of `compare` under names that MLflow takes."""
    names = {
        "MAE": "mae",
        "MAE/MAD": "mae_over_mad",
        "R2": "r2",
        "held-out T: MAE": "held_out_T_mae",
        "held-out T: MAE/MAD": "held_out_T_mae_over_mad",
        "held-out T: R2": "held_out_T_r2",
    }
    return {f"{prefix}{name}": float(row[key]) for key, name in names.items() if key in row}


def prediction_table(
    table: ThermalTable, theta: FloatArray, controls: FloatArray, basis: Basis
) -> pd.DataFrame:
    """One row a test crystal and temperature, in the basis of the report."""
    true = table.scaled(table.values, basis)
    crystal, column = np.nonzero(~np.isnan(true))
    return pd.DataFrame(
        {
            "scope": [table.texts[i] for i in crystal],
            "n_atoms": table.n_atoms[crystal],
            "temperature": table.temperatures[column],
            "theta_D": theta[crystal],
            "true": true[crystal, column],
            "predicted": table.scaled(table.curves(theta), basis)[crystal, column],
            "control": table.scaled(controls, basis)[crystal, column],
        }
    )


def figures(
    parts: Parts,
    theta: FloatArray,
    contenders: Mapping[str, FloatArray],
    temperatures: FloatArray,
    crystals: int,
    basis: Basis,
) -> dict[str, "Figure"]:
    """Curves of some test crystals, together and each by itself, predicted against true, error over T."""
    train, _, test = parts
    order = np.argsort(theta, kind="stable")
    # soft, middling and hard ones: spread over the predicted θ
    chosen = order[np.linspace(0, len(order) - 1, crystals + 2)[1:-1].astype(int)]
    lines, points, drawn = {}, {}, {}
    for number, i in enumerate(chosen, start=1):
        name = f"{test.texts[i].rpartition('| ')[2]}, θ = {theta[i]:.0f} K"
        lines[name] = evaluate(test.quantity, float(theta[i]), torch.from_numpy(temperatures)).numpy()
        known = ~np.isnan(test.values[i])
        points[name] = (test.temperatures[known], test.values[i][known])
        single = thermodynamics([theta[i]], temperatures)
        one = {key: values[0] for key, values in single.items() if values.ndim == 2}
        drawn[f"crystal-{number}"] = sweep_figure(one, name)
    if lines:
        drawn["curves"] = curves(temperatures, lines, test.quantity, points)
    true = test.scaled(test.values, basis)
    known = ~np.isnan(true)
    label = AXIS_LABELS[test.quantity].replace("per atom", f"per {basis}").replace("kJ", "J")
    predicted = test.scaled(contenders[MODEL], basis)
    drawn["parity"] = parity(true[known], predicted[known], label, f"{len(test)} test crystals")
    if len(test.temperatures) > 1:
        columns = [k for k in range(len(test.temperatures)) if known[:, k].any()]
        means, errors = dummy(parts, basis), {}
        for name, given in contenders.items():
            said = test.scaled(given, basis)
            errors[name] = np.array(
                [mae_over_mad(*(values[known[:, k], k] for values in (true, said, means))) for k in columns]
            )
        drawn["errors"] = errors_by_temperature(
            test.temperatures[columns], errors, train.temperatures.tolist()
        )
    return drawn
