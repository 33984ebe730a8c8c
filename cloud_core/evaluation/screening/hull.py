"""The convex hull of formation energies over composition, from a table of known crystals."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Composition = Mapping[str, float]


class Hull:
    """Energy of the most stable mixture of known crystals at any composition.

    Formation energies are relative to the elements, which therefore lie at 0 eV/atom or below. For each
    chemical system this is a small linear programme over the crystals inside it; systems are kept.
    """

    def __init__(self, compositions: Sequence[Composition], energies: Sequence[float]) -> None:
        """`compositions` as element -> amount (any scale), `energies` eV/atom of the same crystals.

        Raises:
            ValueError: lengths differ, an energy is not finite or a composition is empty.
        """
        values = np.asarray(energies, dtype=float)
        if len(compositions) != len(values) or not np.isfinite(values).all():
            raise ValueError("a hull needs one finite formation energy (eV/atom) for each composition")
        lowest: dict[tuple[tuple[str, float], ...], float] = {}
        for composition, energy in zip(compositions, values.tolist(), strict=True):
            point = _normalised(composition)
            lowest[point] = min(energy, lowest.get(point, np.inf))
        self._by_system: dict[frozenset[str], list[tuple[dict[str, float], float]]] = {}
        for point, energy in lowest.items():
            system = frozenset(element for element, _ in point)
            self._by_system.setdefault(system, []).append((dict(point), energy))
        self._by_element: dict[str, list[frozenset[str]]] = {}
        for system in self._by_system:
            for element in system:
                self._by_element.setdefault(element, []).append(system)

    def energy(self, composition: Composition) -> float:
        """Hull energy at `composition`, eV/atom."""
        from scipy.optimize import linprog

        target = dict(_normalised(composition))
        elements = sorted(target)
        matrix, energies = self._inside(frozenset(elements))
        amounts = np.array([target[element] for element in elements])
        solution = linprog(energies, A_eq=matrix, b_eq=amounts, bounds=(0, None), method="highs")
        if solution.status != 0:  # cannot be: the elements alone are a solution
            raise ArithmeticError(f"no hull energy at {dict(composition)}: {solution.message}")
        return float(solution.fun)

    def distance(self, composition: Composition, formation_energy: float) -> float:
        """Distance of a crystal to the hull, eV/atom; negative where it would lower the hull."""
        return formation_energy - self.energy(composition)

    def _inside(self, elements: frozenset[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(fractions [elements, entries], energies [entries]) of all crystals within a chemical system."""
        systems = {
            system
            for element in elements
            for system in self._by_element.get(element, ())
            if system <= elements
        }
        entries = [entry for system in sorted(systems, key=sorted) for entry in self._by_system[system]]
        names = sorted(elements)
        columns = [[point.get(name, 0.0) for name in names] for point, _ in entries]
        columns += np.eye(len(names)).tolist()  # the elements, by definition of a formation energy
        return np.array(columns).T, np.array([energy for _, energy in entries] + [0.0] * len(names))


def _normalised(composition: Composition) -> tuple[tuple[str, float], ...]:
    total = sum(composition.values())
    if not composition or total <= 0 or min(composition.values()) < 0:
        raise ValueError(f"not a composition: {dict(composition)}")
    return tuple(sorted((element, round(n / total, 6)) for element, n in composition.items() if n > 0))
