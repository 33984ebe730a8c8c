"""Cut the golden cells from the shared data: `python tests/scope/make_golden.py ../shared/data`.

300 real cells of all crystal systems and every kind of special case, with the canonical string, the
resolved one and the element-resolved key that the encoder gives now. Run it again only with a new
ENCODER_VERSION.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cloud_core.scope.encoder import Scope, encode_cell
from cloud_core.scope.settings import EncoderSettings
from cloud_core.structures import Cell, StructureError, read

GOLDEN = Path(__file__).with_name("golden.parquet")
N = 300


def cells(data: Path) -> Iterator[tuple[str, Cell]]:
    """Of the Materials Project and WBM, mixed."""
    rng = np.random.default_rng(0)
    cifs = pd.read_parquet(data / "crysxpp/mp_cifs_36737.parquet")
    wbm = pq.read_table(data / "wbm/wbm_initial_structures.parquet")
    for i, j in zip(rng.permutation(len(cifs)), rng.permutation(len(wbm)), strict=False):
        row = cifs.iloc[i]
        yield f"mp {Path(row['path']).stem}", read(bytes(row["cif"]).decode(), "cif")
        values = {name: wbm[name][int(j)].as_py() for name in ("material_id", "species", "lattice", "abc")}
        lattice, fractions = np.array(values["lattice"]).reshape(3, 3), np.array(values["abc"]).reshape(-1, 3)
        yield values["material_id"], Cell(lattice, tuple(values["species"].split()), fractions)


def table(data: Path, name: str, n: int) -> Iterator[tuple[str, Cell]]:
    frame = pd.read_csv(data / "cdvae" / name)
    for _, row in frame.sample(n, random_state=0).iterrows():
        yield f"{name.partition('_')[0]} {row['material_id']}", read(row["cif"], "cif")


def special(picked: dict[str, Cell]) -> Iterator[tuple[str, Cell]]:
    """What databases of ordered cells do not hold: orderings, supercells, mixtures, vacancies, isotopes."""
    lattice = np.array([[0, 2.95, 2.95], [2.95, 0, 2.95], [2.95, 2.95, 0]])
    places = np.array([[0.0] * 3, [0.25] * 3, [0.5] * 3])
    for order in (("Ti", "Ni", "Sn"), ("Ni", "Ti", "Sn"), ("Ti", "Sn", "Ni")):
        yield f"half-Heusler {''.join(order)}", Cell(lattice, order, places)
    yield "one atom Po", Cell(np.eye(3) * 3.35, ("Po",), np.zeros((1, 3)))
    yield "one atom At", Cell(np.eye(3) * 3.4, ("At",), np.zeros((1, 3)))
    plain = [cell for cell in picked.values() if len(cell) <= 12][:12]
    for number, cell in enumerate(plain):
        if number % 4 == 0:
            shift = np.array([[i, j, 0] for i in (0, 1) for j in (0, 1, 2)])
            fractions = ((cell.fractions[:, None] + shift) / [2, 3, 1]).reshape(-1, 3)
            species = tuple(s for s in cell.species for _ in shift)
            yield f"supercell {number}", Cell(cell.lattice * [[2], [3], [1]], species, fractions)
            continue
        first = cell.species[0]
        kinds = ({first: 0.9}, {first: 0.7, "Zr": 0.3}, {first: 0.333, "Zr": 0.333, "Nb": 0.334})
        amounts = kinds[number % 4 - 1]
        occupancies = tuple(amounts if s == first else {s: 1.0} for s in cell.species)
        yield f"mixed {number}", replace(cell, occupancies=occupancies)
    for number, cell in enumerate([c for c in picked.values() if "H" in c.species][:4]):
        species = tuple("D" if s == "H" else s for s in cell.species)
        yield f"deuterated {number}", replace(cell, species=species)


def choose(data: Path) -> dict[str, Cell]:
    settings = EncoderSettings()

    def encoded(cell: Cell) -> Scope | None:
        try:
            return encode_cell(cell, settings)
        except StructureError:
            return None

    picked: dict[str, Cell] = {}
    of_group: dict[int, int] = defaultdict(int)
    large = rare = heavy = 0
    for tried, (name, cell) in enumerate(cells(data)):
        scope = encoded(cell)
        if scope is None:
            continue
        is_large = 150 <= len(cell) <= 200 and large < 6
        is_flagged = bool(scope.flags) and rare < 25
        has_hydrogen = "H" in cell.species and len(cell) < 30 and heavy < 4
        most = 1 if scope.space_group in (1, 2, 14, 225) else 2
        if is_large or is_flagged or has_hydrogen or (of_group[scope.space_group] < most and len(cell) <= 64):
            picked[name] = cell
            of_group[scope.space_group] += 1
            large, rare, heavy = large + is_large, rare + is_flagged, heavy + has_hydrogen
        if len(picked) >= 243 or tried > 40_000:
            break
    picked |= dict(table(data, "perov_5_val.csv.gz", 24)) | dict(table(data, "carbon_24_val.csv.gz", 14))
    picked |= dict(special(picked))
    return {name: cell for name, cell in picked.items() if encoded(cell) is not None}


def main(data: Path) -> None:
    picked = dict(list(choose(data).items())[-N:])
    scopes = [encode_cell(cell, EncoderSettings(forms=("resolved",))) for cell in picked.values()]
    rows = pa.table(
        {
            "name": list(picked),
            "lattice": [cell.lattice.ravel().tolist() for cell in picked.values()],
            "species": [" ".join(cell.species) for cell in picked.values()],
            "fractions": [cell.fractions.ravel().tolist() for cell in picked.values()],
            "occupancies": [
                None if cell.occupancies is None else [list(site.items()) for site in cell.occupancies]
                for cell in picked.values()
            ],
            "canonical": [scope.canonical for scope in scopes],
            "resolved": [scope.resolved for scope in scopes],
            "element_key": [scope.element_key for scope in scopes],
            "space_group": [scope.space_group for scope in scopes],
            "flags": [list(scope.flags) for scope in scopes],
        },
        schema=pa.schema(
            [
                ("name", pa.string()),
                ("lattice", pa.list_(pa.float64())),
                ("species", pa.string()),
                ("fractions", pa.list_(pa.float64())),
                ("occupancies", pa.list_(pa.map_(pa.string(), pa.float64()))),
                ("canonical", pa.string()),
                ("resolved", pa.string()),
                ("element_key", pa.string()),
                ("space_group", pa.int16()),
                ("flags", pa.list_(pa.string())),
            ]
        ),
    )
    pq.write_table(rows, GOLDEN, compression="zstd", compression_level=19)
    groups = rows["space_group"].unique()
    print(f"{len(rows)} cells of {len(groups)} space groups, {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
