"""One crystal as the programs that write structures put it down."""

import io
import json
from typing import Any


def rutile() -> Any:
    """TiO2, as a pymatgen Structure; space group 136."""
    from pymatgen.core import Lattice, Structure

    u = 0.3053
    positions = [
        [0, 0, 0],
        [0.5, 0.5, 0.5],
        [u, u, 0],
        [1 - u, 1 - u, 0],
        [0.5 - u, 0.5 + u, 0.5],
        [0.5 + u, 0.5 - u, 0.5],
    ]
    return Structure(Lattice.tetragonal(4.594, 2.959), ["Ti"] * 2 + ["O"] * 4, positions)


def optimade(structure: Any) -> dict[str, Any]:
    """An OPTIMADE entry."""
    symbols = [site.specie.symbol for site in structure]
    return {
        "id": "rutile",
        "type": "structures",
        "attributes": {
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            "species_at_sites": symbols,
            "species": [
                {"name": name, "chemical_symbols": [name], "concentration": [1.0]}
                for name in dict.fromkeys(symbols)
            ],
            "nsites": len(symbols),
            "dimension_types": [1, 1, 1],
            "structure_features": [],
        },
    }


def jarvis(structure: Any) -> dict[str, Any]:
    """JARVIS' Atoms.to_dict()."""
    return {
        "lattice_mat": structure.lattice.matrix.tolist(),
        "coords": structure.frac_coords.tolist(),
        "elements": [f"{site.specie.symbol} " for site in structure],
        "abc": list(structure.lattice.abc),
        "angles": list(structure.lattice.angles),
        "cartesian": False,
        "props": [""] * len(structure),
    }


def ase_atoms(structure: Any, pbc: Any = True) -> Any:
    """ASE's Atoms."""
    from ase.atoms import Atoms

    symbols = [site.specie.symbol for site in structure]
    return Atoms(symbols, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=pbc)


def ase_json(*structures: Any) -> str:
    """ASE's JSON database of these structures, as its own writer gives it for one."""
    from ase.io import write

    found: dict[str, Any] = {}
    for number, structure in enumerate(structures, start=1):
        file = io.StringIO()
        write(file, ase_atoms(structure), format="json")
        found[str(number)] = json.loads(file.getvalue())["1"]
    return json.dumps(found | {"ids": list(range(1, len(structures) + 1)), "nextid": len(structures) + 1})


def extxyz(structure: Any) -> str:
    """ASE's extended XYZ."""
    from ase.io import write

    file = io.StringIO()
    write(file, ase_atoms(structure), format="extxyz", columns=["symbols", "positions"])
    return file.getvalue()
