"""Make the tables of sites: `PYTHONPATH=. python tests/scope/make_site_tables.py`.

cloud_core/scope/data/site_symmetries.json, from the operations of the space groups (`normaliser.py`), takes
minutes; elements.json, from pymatgen's periodic table, a second.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from normaliser import site_symmetries
from pymatgen.core import Element

from cloud_core.scope.tables import space_groups
from cloud_core.structures.elements import SYMBOLS

DATA = Path(__file__).parents[2] / "cloud_core/scope/data"
# Name → unit; "" for a plain number. The order is that of the columns.
PROPERTIES = {
    "atomic_number": "", "row": "", "group": "", "block": "0 s, 1 p, 2 d, 3 f",
    "mendeleev_number": "", "atomic_mass": "u", "electronegativity": "Pauling",
    "atomic_radius": "Å", "ionic_radius": "Å, mean over the charges", "van_der_waals_radius": "Å",
    "ionization_energy": "eV", "electron_affinity": "eV", "melting_point": "K", "molar_volume": "cm³/mol",
    "valence_s": "", "valence_p": "", "valence_d": "", "valence_f": "",
    "lowest_oxidation_state": "", "highest_oxidation_state": "",
    "is_metal": "0 or 1", "is_metalloid": "0 or 1", "is_rare_earth": "0 or 1",
}  # fmt: skip


def properties(symbol: str) -> list[float | None]:
    """The properties of an element as pymatgen has them; None where it has no number."""
    element = Element(symbol)
    data = element.data
    radii = list((data.get("Ionic radii") or data.get("Ionic radii hs") or {}).values())
    ionic_radius = round(sum(radii) / len(radii), 4) if radii else None
    # The lists of meitnerium and darmstadtium lack their first entries (they begin with 50 and 65 eV).
    energies = (data.get("Ionization energies") if symbol not in ("Mt", "Ds") else None) or [None]
    states = data.get("Oxidation states") or [None]
    # pymatgen counts helium, whose electrons are 1s², among the p block.
    block = "s" if symbol == "He" else element.block
    return [
        element.Z, element.row, element.group, "spdf".index(block),
        data.get("Mendeleev no"), data.get("Atomic mass"), data.get("X"),
        data.get("Atomic radius"), ionic_radius, data.get("Van der waals radius"),
        energies[0], data.get("Electron affinity"), data.get("Melting point"), data.get("Molar volume"),
        *valence_electrons(element),
        states[0], states[-1],
        int(element.is_metal), int(element.is_metalloid), int(element.is_rare_earth),
    ]  # fmt: skip


def valence_electrons(element: Element) -> Sequence[int | None]:
    """Electrons in s, p, d and f shells outside the noble-gas core of the neutral atom."""
    structure = element.data.get("Electronic structure")
    if structure is None:
        return (None,) * 4
    shells = [shell for shell in structure["0"].split(".") if not shell.startswith("[")]
    assert not structure["0"].startswith("[") or structure["0"][1:3] in ("He", "Ne", "Ar", "Kr", "Xe", "Rn")
    return [sum(int(shell[2:]) for shell in shells if shell[1] == kind) for kind in "spdf"]


def write_site_symmetries() -> None:
    lines = [f'"{number}": "{" ".join(site_symmetries(number))}"' for number in space_groups()]
    (DATA / "site_symmetries.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_elements() -> None:
    head = {"source": f"pymatgen {version('pymatgen')}", "properties": PROPERTIES}
    lines = [f'"{symbol}": {json.dumps(properties(symbol))}' for symbol in SYMBOLS]
    text = (
        json.dumps(head, ensure_ascii=False, indent=0)[:-2]
        + ',\n"elements": {\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )
    (DATA / "elements.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_elements()
    write_site_symmetries()
