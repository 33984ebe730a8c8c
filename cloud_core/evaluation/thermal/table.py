"""Labels of heat capacity or internal energy at one temperature or many, and the loss against them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_core.errors import CloudError
from cloud_core.models.debye_model import Quantity, best_theta, evaluate
from cloud_core.training.job import Basis
from cloud_core.units import GAS_CONSTANT


class ThermalError(CloudError):
    """Labels that cannot be used; names the row or column and the remedy."""


@dataclass(frozen=True)
class ThermalTable:
    """N crystals with labels at K temperatures, not all of them at each."""

    texts: tuple[str, ...]
    """SCOPE strings [N]"""
    n_atoms: NDArray[np.float64]
    """atoms [N] of the cell that `basis="cell"` counts"""
    temperatures: NDArray[np.float64]
    """[K] in K, ascending"""
    values: NDArray[np.float64]
    """[N, K] per mole of atoms: J/(mol K) or J/mol; nan where there is no label"""
    quantity: Quantity

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[Any]) -> "ThermalTable":
        """The given rows, by number or by mask."""
        chosen = np.arange(len(self))[rows]
        return ThermalTable(
            tuple(self.texts[i] for i in chosen),
            self.n_atoms[chosen],
            self.temperatures,
            self.values[chosen],
            self.quantity,
        )

    def at(self, columns: NDArray[Any]) -> "ThermalTable":
        """The given temperatures, by number or by mask; crystals without a label there stay."""
        return ThermalTable(
            self.texts, self.n_atoms, self.temperatures[columns], self.values[:, columns], self.quantity
        )

    def scaled(self, values: NDArray[np.float64], basis: Basis) -> NDArray[np.float64]:
        """Values [N, K] per atom in the basis of a report."""
        return values * self.n_atoms[:, None] if basis == "cell" else values

    def best_theta(self, lowest: float, highest: float) -> NDArray[np.float64]:
        """θ_D [N] in K that fits each crystal's labels best: what no encoder can beat."""
        temperatures = torch.from_numpy(self.temperatures)
        fitted = best_theta(torch.from_numpy(self.values), temperatures, self.quantity, lowest, highest)
        return fitted.numpy()

    def curves(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """The quantity [N, K] per atom for Debye temperatures `theta` [N] in K."""
        temperatures = torch.from_numpy(self.temperatures)
        column = torch.from_numpy(np.asarray(theta, dtype=np.float64))[:, None]
        return evaluate(self.quantity, column, temperatures).numpy()


class Parts(NamedTuple):
    """Training and validation rows at the temperatures trained on; test rows at all."""

    train: ThermalTable
    validation: ThermalTable
    test: ThermalTable

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """[K] which of the test rows' temperatures were not trained on."""
        return ~np.isin(self.test.temperatures, self.train.temperatures)

    def between(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [N, K'] at the temperatures trained on -> [N, K] at all: in between by a straight line."""
        at, known = self.test.temperatures, self.train.temperatures
        return np.array([np.interp(at, known, row) for row in values])


def assemble(
    texts: list[str],
    values: NDArray[np.float64],
    n_atoms: NDArray[np.float64],
    temperatures: NDArray[np.float64],
    quantity: Quantity,
    basis: Basis,
    ids: list[str] | None = None,
) -> ThermalTable:
    """A table from rows, one label each.

    Args:
        texts: SCOPE strings [R].
        values: [R] in the unit of `quantity`, per mole of cells or of atoms as `basis` says.
        n_atoms: [R] atoms of each row's own cell.
        temperatures: [R] in K.
        ids: [R] names of crystals, so that rows of one crystal at several temperatures come together; without
            them every row is a crystal of its own if all are at one temperature, else a SCOPE string is.

    Raises:
        ThermalError: no rows, values that are not finite or not positive, no positive number of atoms or
            temperature, or two labels of one crystal at one temperature.
    """
    checks = {
        "labels must be positive numbers": np.isfinite(values) & (values > 0),
        "n_atoms must be at least 1": np.isfinite(n_atoms) & (n_atoms >= 1),
        "temperatures must be above 0 K": np.isfinite(temperatures) & (temperatures > 0),
    }
    if quantity == "heat_capacity":
        per_atom = values / np.maximum(n_atoms, 1) if basis == "cell" else values
        limit = f"{3 * GAS_CONSTANT:.2f} J/(mol K) per mole of atoms"
        checks[f"a heat capacity is not far above 3R = {limit}; look at n_atoms and `basis`"] = (
            per_atom < 1.5 * 3 * GAS_CONSTANT
        )
    if not len(texts):
        raise ThermalError("no rows with a label; look at the column names")
    for rule, good in checks.items():
        if not good.all():
            row = int(np.argmin(good))
            raise ThermalError(
                f"row {row + 1} ({texts[row]!r}): {rule}: {values[row]}, {n_atoms[row]}, "
                f"{temperatures[row]}; correct or remove the row"
            )
    levels = np.unique(temperatures)
    if ids is None:
        ids = [str(row) for row in range(len(texts))] if len(levels) == 1 else texts
    number = {name: index for index, name in enumerate(dict.fromkeys(ids))}
    crystal = np.array([number[name] for name in ids])
    column = np.searchsorted(levels, temperatures)
    cells = crystal * len(levels) + column
    if len(np.unique(cells)) < len(cells):
        twice = int(np.flatnonzero(np.bincount(cells)[cells] > 1)[0])
        raise ThermalError(
            f"row {twice + 1} ({ids[twice]!r}): two labels at {temperatures[twice]:g} K; name the column "
            "that tells the crystals apart (`id`), or remove one"
        )
    matrix = np.full((len(number), len(levels)), np.nan)
    matrix[crystal, column] = values / n_atoms if basis == "cell" else values
    first = np.unique(crystal, return_index=True)[1]
    return ThermalTable(tuple(texts[i] for i in first), n_atoms[first], levels, matrix, quantity)
