"""JSON of pymatgen, ASE, JARVIS and OPTIMADE: the cells of their own objects, bit for bit, or a refusal."""

import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cloud_core.scope import EncoderSettings, encode
from cloud_core.structures import Cell, Reason, StructureError, read
from cloud_core.structures.pymatgen import from_pymatgen, read_pymatgen, species_label
from tests.structures.documents import ase_atoms, ase_json, jarvis, optimade, rutile


def equal(one: Cell, other: Cell) -> bool:
    """Whether two cells are the same to the last bit."""
    return (
        one.lattice.tobytes() == other.lattice.tobytes()
        and one.fractions.tobytes() == other.fractions.tobytes()
        and one.species == other.species
        and one.occupancies == other.occupancies
        and [note.flag for note in one.notes] == [note.flag for note in other.notes]
    )


def refusal(payload: Any) -> StructureError:
    with pytest.raises(StructureError) as caught:
        read(payload)
    assert "CIF" not in str(caught.value)
    return caught.value


# -- pymatgen


def published(shared: Path) -> Iterator[dict[str, Any]]:
    table = pq.read_table(shared / "reference" / "published_dielectric.parquet")
    yield from map(json.loads, table["structure_json"].to_pylist())


def matcalc(shared: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(shared / "data" / "matcalc" / "mp-binary-pbe-elasticity-2025.1.json.gz") as file:
        yield from (row["structure"] for row in json.load(file))


def automatminer(shared: Path) -> Iterator[dict[str, Any]]:
    frame = pd.read_csv(shared / "data" / "automatminer" / "phonon_dielectric_mp.csv.gz")
    yield from map(ast.literal_eval, frame["structure"].dropna())


@pytest.mark.parametrize(
    ("documents", "step"),
    [(published, 1), pytest.param(matcalc, 1, marks=pytest.mark.slow), (matcalc, 9), (automatminer, 5)],
)
def test_real_json_is_read_as_pymatgen_reads_it(shared: Path, documents: Any, step: int) -> None:
    from pymatgen.core import Structure

    found = list(documents(shared))[::step]
    assert len(found) > 250
    for document in found:
        text = json.dumps(document)
        assert equal(read(text), from_pymatgen(Structure.from_dict(document)))


def test_charges_spins_and_mixtures_are_labelled_as_pymatgen_does() -> None:
    from pymatgen.core import Lattice, Species, Structure

    rng = np.random.default_rng(0)
    charges = [None, 0, 1, -1, 2, -2, 3.0, 2.5, -1 / 3, 1.00000001, 2.666666666, 0.5]
    spins = [None, 5, 5.0, -2.5, 0, 1e-5]
    for charge in charges:
        for spin in spins:
            assert species_label("Fe", charge, spin) == str(Species("Fe", charge, spin=spin))
    for _ in range(300):
        kinds: list[Any] = []
        for _ in range(int(rng.integers(1, 5))):
            names = rng.choice(["Fe", "Co", "Na", "O", "D"], int(rng.integers(1, 4)), replace=False)
            amounts = rng.dirichlet(np.ones(len(names))) * rng.choice([1.0, 1.0, 0.7])
            labels = [
                Species(str(name), charges[rng.integers(len(charges))], spin=spins[rng.integers(len(spins))])
                if rng.random() < 0.6
                else str(name)
                for name in names
            ]
            kinds.append(
                labels[0] if rng.random() < 0.5 else dict(zip(labels, amounts.tolist(), strict=True))
            )
        structure = Structure(
            Lattice(rng.normal(size=(3, 3)) * 5), kinds, rng.normal(size=(len(kinds), 3)), charge=1
        )
        document = json.loads(json.dumps(structure.as_dict()))
        assert equal(read(document), from_pymatgen(Structure.from_dict(document))), document["sites"]


def test_every_layout_of_the_fields() -> None:
    document = rutile().as_dict()
    whole = read(document)
    flat = document | {"lattice": {"matrix": np.array(document["lattice"]["matrix"]).ravel().tolist()}}
    parameters = {key: document["lattice"][key] for key in ("a", "b", "c", "alpha", "beta", "gamma")}
    bare = {
        "lattice": flat["lattice"],
        "sites": [{k: s[k] for k in ("species", "abc")} for s in document["sites"]],
    }
    for layout in (
        flat,
        document | {"lattice": parameters},
        bare,
        document | {"charge": "many", "@class": 1},
    ):
        assert encode(layout).element_key == encode(document).element_key
    assert equal(read(bare), whole)
    cartesian = document | {"sites": [{k: s[k] for k in ("species", "xyz")} for s in document["sites"]]}
    np.testing.assert_allclose(read(cartesian).fractions, whole.fractions, atol=1e-12)
    vacant = json.loads(json.dumps(bare))
    for site in (*vacant["sites"][:1], {}):
        if site:
            vacant["sites"].append(
                site | {"species": [{"element": "Vac", "occu": 1.0}], "abc": [0.25, 0.25, 0.25]}
            )
    assert equal(read(vacant), whole)


def changed(**fields: Any) -> dict[str, Any]:
    """rutile's JSON with other fields in its first site."""
    document = json.loads(json.dumps(rutile().as_dict()))
    document["sites"][0] |= fields
    return document


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (changed(species=[{"element": "X", "occu": 1}]), Reason.UNKNOWN_ELEMENT),
        (changed(species=[{"element": "X", "occu": 1, "oxidation_state": 0}]), Reason.UNKNOWN_ELEMENT),
        (changed(species=[{"element": "CO", "occu": 1}]), Reason.UNKNOWN_ELEMENT),
        (changed(species=[{"element": "Fe1", "occu": 1}]), Reason.UNKNOWN_ELEMENT),
        (changed(species=[{"element": 26, "occu": 1}]), Reason.UNKNOWN_ELEMENT),
        (changed(species=[{"element": "Heavy", "occu": 1}]), Reason.UNKNOWN_ELEMENT),
        (changed(species=[{"element": "Ti"}]), Reason.INVALID_OCCUPANCY),
        (changed(species=[{"element": "Ti", "occu": True}]), Reason.INVALID_OCCUPANCY),
        (changed(species=[{"element": "Ti", "occu": "1"}]), Reason.INVALID_OCCUPANCY),
        (changed(species=[{"element": "Ti", "occu": -0.5}]), Reason.INVALID_OCCUPANCY),
        (changed(species=[{"element": "Ti", "occu": float("nan")}]), Reason.INVALID_OCCUPANCY),
        (changed(species=[{"element": "Ti", "occu": 1.02}]), Reason.INVALID_OCCUPANCY),
        (
            changed(species=[{"element": "Ti", "occu": 1}, {"element": "V", "occu": 1}]),
            Reason.OVERLAPPING_SITES,
        ),
        (changed(species={"Ti": 1}), Reason.PARSE_ERROR),
        (changed(species=None), Reason.PARSE_ERROR),
        (changed(species=["Ti"]), Reason.PARSE_ERROR),
        (changed(species=[{"element": "Ti", "occu": 1, "oxidation_state": "4+"}]), Reason.PARSE_ERROR),
        (changed(abc=[0, 0]), Reason.INVALID_POSITIONS),
        (changed(abc=[0, 0, None]), Reason.INVALID_POSITIONS),
        (changed(abc=[0, 0, True]), Reason.INVALID_POSITIONS),
        (changed(abc=["0", "0", "0"]), Reason.INVALID_POSITIONS),
        (changed(abc=[0, 0, float("inf")]), Reason.INVALID_POSITIONS),
        (changed(abc=[0, 0, 10**400]), Reason.INVALID_POSITIONS),
        (changed() | {"lattice": None}, Reason.UNSUPPORTED),
        (changed() | {"lattice": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]}, Reason.INVALID_LATTICE),
        (changed() | {"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 0]]}}, Reason.INVALID_LATTICE),
        (changed() | {"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, True]]}}, Reason.INVALID_LATTICE),
        (changed() | {"lattice": {"matrix": [4, 0, 0]}}, Reason.INVALID_LATTICE),
        (changed() | {"lattice": {"a": 4, "b": 4, "c": 4, "alpha": 90, "beta": 90}}, Reason.INVALID_LATTICE),
        (
            changed() | {"lattice": {"a": -4, "b": 4, "c": 4, "alpha": 90, "beta": 90, "gamma": 90}},
            Reason.INVALID_LATTICE,
        ),
        (changed() | {"lattice": {"matrix": [4, 0, 0, 0, 4, 0, 0, 0, 4], "pbc": "FFF"}}, Reason.PARSE_ERROR),
        (changed() | {"sites": []}, Reason.NO_ATOMS),
        (changed() | {"sites": {"0": {}}}, Reason.PARSE_ERROR),
        (changed() | {"sites": [1, 2]}, Reason.PARSE_ERROR),
        (changed() | {"sites": [{"species": [{"element": "Ti", "occu": 1}]}]}, Reason.INVALID_POSITIONS),
    ],
)
def test_what_pymatgen_never_writes_is_refused(document: dict[str, Any], reason: Reason) -> None:
    error = refusal(document)
    assert error.reason is reason
    assert str(error).startswith("pymatgen: ")


def test_sums_of_occupancies_within_their_digits() -> None:
    cell = read(changed(species=[{"element": "Ti", "occu": 0.334}, {"element": "V", "occu": 0.667}]))
    assert [note.flag for note in cell.notes] == ["occupancy_rounded"]
    assert cell.occupancies is not None
    assert sum(cell.occupancies[0].values()) == pytest.approx(1, abs=1e-12)
    almost = [
        {"element": "Ti", "occu": 0.1},
        {"element": "V", "occu": 0.2},
        {"element": "Cr", "occu": 0.7000000000000001},
    ]
    assert read(changed(species=almost)).notes == ()


def test_periodicity_is_told_by_every_format_and_may_be_assumed() -> None:
    structure = rutile()
    slab = structure.copy()
    slab.lattice = type(slab.lattice)(slab.lattice.matrix, pbc=(True, True, False))
    payloads = [
        slab, slab.as_dict(), ase_atoms(structure, [True, True, False]), ase_atoms(structure, False),
        ase_json(structure).replace("true, true, true", "true, true, false"),
        optimade(structure)["attributes"] | {"dimension_types": [1, 1, 0]},
        optimade(structure)["attributes"] | {"dimension_types": None, "nperiodic_dimensions": 2},
    ]  # fmt: skip
    for payload in payloads:
        assert [note.flag for note in read(payload).notes] == ["not_periodic"]
        with pytest.raises(StructureError) as caught:
            encode(payload)
        assert caught.value.reason is Reason.UNSUPPORTED
        scope = encode(payload, settings=EncoderSettings(assume_periodic=True))
        assert scope.space_group == 136 and "not_periodic" in scope.flags
    assert "atoms.pbc = True" in read(ase_atoms(structure, False)).notes[0].text


def test_molecules_are_no_crystals() -> None:
    from ase.build import molecule
    from pymatgen.core import Molecule

    water = Molecule(["O", "H", "H"], [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]])
    for payload in (water, water.as_dict(), molecule("H2O"), molecule("H2O").todict()):
        assert refusal(payload).reason is Reason.UNSUPPORTED


def test_dummy_species_and_isotopes_of_objects() -> None:
    from pymatgen.core import DummySpecies, Lattice, Structure

    lattice = Lattice.cubic(4)
    assert refusal(Structure(lattice, [DummySpecies("X", 2)], [[0, 0, 0]])).reason is Reason.UNKNOWN_ELEMENT
    heavy = Structure(lattice, ["K", "D"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    shared = Structure(lattice, ["K", {"H": 0.5, "D": 0.5}], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for structure in (heavy, shared):
        scope = encode(structure)
        assert "isotope" in scope.flags
        assert scope.element_key == encode(Structure(lattice, ["K", "H"], heavy.frac_coords)).element_key
    document = heavy.as_dict()
    document["sites"][1]["species"][0]["element"] = "D"
    assert "isotope" in encode(document).flags


# -- ASE


def test_real_ase_dictionaries(shared: Path) -> None:
    from ase.atoms import Atoms

    frame = pd.read_csv(shared / "data" / "phonon" / "phdos_tutorial_data_1521.csv.gz")
    for text in frame["structure"][::10]:
        document = ast.literal_eval(text)
        cell = read(document)
        atoms = Atoms(
            numbers=document["numbers"],
            positions=document["positions"],
            cell=document["cell"],
            pbc=document["pbc"],
        )
        assert list(cell.species) == atoms.get_chemical_symbols()
        scaled = cell.fractions - atoms.get_scaled_positions(wrap=False)
        assert np.abs(scaled).max() < 1e-9
        assert equal(read(atoms), cell)


def test_ase_keeps_occupancies_beside_its_atoms() -> None:
    from ase.spacegroup import crystal

    salt = crystal(
        ["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.6] * 3 + [90] * 3,
        occupancies=[0.5, 1],
    )  # fmt: skip
    salt.info["occupancy"]["0"]["K"] = 0.5
    cell = read(salt)
    assert cell.occupancies is not None
    assert cell.occupancies[0] == {"Na": 0.5, "K": 0.5} and cell.occupancies[-1] == {"Cl": 1.0}
    assert encode(salt).space_group == 225
    del salt.arrays["spacegroup_kinds"]
    assert refusal(salt).reason is Reason.UNSUPPORTED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"numbers": [0, 8]}, Reason.UNKNOWN_ELEMENT),
        ({"numbers": [119, 8]}, Reason.UNKNOWN_ELEMENT),
        ({"numbers": [-1, 8]}, Reason.UNKNOWN_ELEMENT),
        ({"numbers": [8.5, 8]}, Reason.UNKNOWN_ELEMENT),
        ({"numbers": [True, 8]}, Reason.PARSE_ERROR),
        ({"numbers": ["8", "8"]}, Reason.PARSE_ERROR),
        ({"numbers": [8]}, Reason.INVALID_POSITIONS),
        ({"numbers": []}, Reason.PARSE_ERROR),
        ({"numbers": None, "symbols": ["X", "O"]}, Reason.UNKNOWN_ELEMENT),
        ({"numbers": None, "symbols": [8, 8]}, Reason.PARSE_ERROR),
        ({"positions": [[0, 0, 0], [1, 1, float("nan")]]}, Reason.INVALID_POSITIONS),
        ({"positions": [[0, 0, 0], [1, 1]]}, Reason.INVALID_POSITIONS),
        ({"positions": 3}, Reason.PARSE_ERROR),
        ({"cell": [[0] * 3] * 3}, Reason.UNSUPPORTED),
        ({"cell": [[1, 0, 0], [0, 1, 0], [1, 1, 0]]}, Reason.INVALID_LATTICE),
        ({"cell": True}, Reason.INVALID_LATTICE),
        ({"cell": None}, Reason.PARSE_ERROR),
        ({"pbc": [True, True]}, Reason.PARSE_ERROR),
        ({"pbc": "TTT"}, Reason.PARSE_ERROR),
        ({"positions": {"__ndarray__": [[10**12, 3], "float64", [0.0] * 6]}}, None),
        ({"positions": {"__ndarray__": [[2, 3], "float64"]}}, Reason.PARSE_ERROR),
        ({"positions": {"__ndarray__": [[2, 3], "complex128", ["a"] * 6]}}, Reason.INVALID_POSITIONS),
    ],
)
def test_ase_arrays_are_checked(fields: dict[str, Any], reason: Reason | None) -> None:
    document = {
        "numbers": [11, 17],
        "positions": [[0, 0, 0], [2, 2, 2]],
        "cell": [4, 4, 4],
        "pbc": [1, 1, 1],
    } | fields
    if reason is None:  # the shape that is claimed is not believed
        assert len(read(document)) == 2
    else:
        assert refusal(document).reason is reason


# -- JARVIS


def test_jarvis_fractional_and_cartesian(shared: Path) -> None:
    structure = rutile()
    document = jarvis(structure)
    assert equal(read(document), read(document | {"cartesian": None}))
    turned = document | {"coords": structure.cart_coords.tolist(), "cartesian": True}
    np.testing.assert_allclose(read(turned).fractions, structure.frac_coords, atol=1e-12)
    for fields, reason in [
        ({"elements": ["Ti"]}, Reason.INVALID_POSITIONS),
        ({"elements": ["Ti "] * 5 + ["X"]}, Reason.UNKNOWN_ELEMENT),
        ({"elements": ["Ti "] * 5 + ["O1"]}, Reason.UNKNOWN_ELEMENT),
        ({"elements": "TiTiOOOO"}, Reason.PARSE_ERROR),
        ({"cartesian": "no"}, Reason.PARSE_ERROR),
        ({"lattice_mat": [[1, 2, 3]]}, Reason.INVALID_LATTICE),
        ({"coords": None}, Reason.INVALID_POSITIONS),
    ]:
        assert refusal(document | fields).reason is reason, fields


# -- OPTIMADE


def attributes(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = optimade(rutile())["attributes"] | fields
    return found


def species(*kinds: tuple[str, list[str], Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "chemical_symbols": symbols, "concentration": amounts}
        for name, symbols, amounts in kinds
    ]


OXYGEN = ("O", ["O"], [1.0])


def test_optimade_mixtures_and_vacancies() -> None:
    cell = read(attributes(species=species(("Ti", ["Ti", "vacancy"], [0.9, 0.1]), OXYGEN)))
    assert cell.occupancies is not None and cell.occupancies[0] == {"Ti": 0.9}
    gone = read(attributes(species=species(("Ti", ["vacancy"], [1.0]), OXYGEN)))
    assert gone.species == ("O",) * 4
    named = attributes(
        species_at_sites=["metal"] * 2 + ["O"] * 4,
        species=species(("metal", ["Ti", "Zr"], [0.5, 0.5]), OXYGEN),
    )
    assert read(named).occupancies[0] == {"Ti": 0.5, "Zr": 0.5}  # type: ignore[index]
    assert "disordered" in encode(named | {"structure_features": ["disorder"]}).flags
    as_text = attributes(species=json.dumps(species(("Ti", ["Ti"], [1.0]), OXYGEN)))
    assert equal(read(as_text), read(attributes()))
    assert equal(read(attributes(species=None)), read(attributes()))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"structure_features": ["assemblies"]}, Reason.UNSUPPORTED),
        ({"assemblies": [{"sites_in_groups": [[0], [1]]}]}, Reason.UNSUPPORTED),
        ({"species": [*species(OXYGEN), {"name": "Ti", "chemical_symbols": ["Ti"], "concentration": [1.0],
          "attached": ["H"], "nattached": [2]}]}, Reason.UNSUPPORTED),
        ({"lattice_vectors": None}, Reason.PARSE_ERROR),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0], [None, None, None]]}, Reason.UNSUPPORTED),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0], None]}, Reason.UNSUPPORTED),
        ({"lattice_vectors": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}, Reason.INVALID_LATTICE),
        ({"lattice_vectors": [["4", "0", "0"], [0, 4, 0], [0, 0, 4]]}, Reason.INVALID_LATTICE),
        ({"cartesian_site_positions": [[0, 0, 0]]}, Reason.INVALID_POSITIONS),
        ({"cartesian_site_positions": [[0, 0, True]] * 6}, Reason.INVALID_POSITIONS),
        ({"nsites": 12}, Reason.INVALID_POSITIONS),
        ({"species_at_sites": 6}, Reason.PARSE_ERROR),
        ({"species_at_sites": ["Ti"] * 2 + ["P"] * 4}, Reason.PARSE_ERROR),
        ({"species": species(("Ti", ["X"], [1.0]), OXYGEN)}, Reason.UNKNOWN_ELEMENT),
        ({"species": species(("Ti", ["Ti", "Zr"], None), OXYGEN)}, Reason.INVALID_OCCUPANCY),
        ({"species": species(("Ti", ["Ti", "Zr"], [0.5]), OXYGEN)}, Reason.INVALID_OCCUPANCY),
        ({"species": species(("Ti", ["Ti", "Zr"], [0.9, 0.9]), OXYGEN)}, Reason.INVALID_OCCUPANCY),
        ({"species": species(("Ti", ["Ti"], [-1.0]), OXYGEN)}, Reason.INVALID_OCCUPANCY),
        ({"species": species(("Ti", ["Ti"], [True]), OXYGEN)}, Reason.INVALID_OCCUPANCY),
        ({"species": species(("Ti", ["Ti"], [1.0]), ("Ti", ["Zr"], [1.0]), OXYGEN)}, Reason.PARSE_ERROR),
        ({"species": "[{"}, Reason.PARSE_ERROR),
        ({"dimension_types": [1, 1]}, Reason.PARSE_ERROR),
        ({"dimension_types": "111"}, Reason.PARSE_ERROR),
    ],
)  # fmt: skip
def test_optimade_fields_are_checked(fields: dict[str, Any], reason: Reason) -> None:
    assert refusal(attributes(**fields)).reason is reason
    assert refusal({"id": "x/1", "type": "structures", "attributes": attributes(**fields)}).reason is reason


# -- any


def test_a_key_that_stands_twice_is_refused() -> None:
    text = json.dumps(rutile().as_dict())
    twice = text.replace('"lattice"', '"lattice": {"matrix": [9, 0, 0, 0, 9, 0, 0, 0, 9]}, "lattice"', 1)
    assert json.loads(twice) == json.loads(text)
    assert "'lattice' appears twice" in str(refusal(twice))


@pytest.mark.parametrize(
    "text",
    [
        "{", "{]", '{"sites": [1, 2', "null", "1", '"text"', "[[]]", "[null]", '{"a": 1e400}',
        '{"sites": NaN}', '{"attributes": {}}', '{"structure": {}}',
        '{"structure": {"structure": {"structure": {"sites": []}}}}',
        '{"atoms": {"atoms": 1}}', '{"data": {"data": []}}', '{"1": {"positions": 1}}', '{"entries": 1}',
        '{"sites": [{"species": [{"element": "\\ud800", "occu": 1}], "abc": [0, 0, 0]}], '
        '"lattice": {"matrix": [1, 0, 0, 0, 1, 0, 0, 0, 1]}}',
        '{"sites": ' + "9" * 100_000 + "}", '{"lattice_mat": ' + "[" * 900 + "]" * 900 + "}",
        '{"numbers": ' + "[" * 200_000 + "]" * 200_000 + "}", '{"positions": [[[[0]]]], "numbers": [[1]]}',
    ],
)  # fmt: skip
def test_broken_json_is_refused_with_words(text: str) -> None:
    with pytest.raises(StructureError) as caught:
        read(text, "json")
    assert len(str(caught.value)) < 600
    assert "CIF" not in str(caught.value)


def test_nothing_in_a_document_is_run(tmp_path: Path) -> None:
    """What monty's decoder would import and call, in every place where pymatgen's reader decodes."""
    mark = tmp_path / "mark"
    calls: list[Any] = [
        {"@module": "os", "@class": "system", "command": f"touch {mark}"},
        {"@module": "subprocess", "@class": "Popen", "args": ["touch", str(mark)]},
        {"@module": "pathlib", "@callable": "Path.touch", "self": str(mark)},
        {"@module": "builtins", "@class": "open", "file": str(mark), "mode": "w"},
        {"@module": "pymatgen.io.vasp.inputs", "@class": "Incar", "@version": "1", "x": 1},
        {"@module": "numpy", "@class": "array", "dtype": "object", "data": [f"!!os.system {mark}"]},
        {"__ase_objtype__": "os.system", "py/reduce": [{"py/type": "os.system"}, {"py/tuple": [str(mark)]}]},
        f"<!DOCTYPE a [<!ENTITY x SYSTEM 'file://{mark}'>]>",
    ]  # fmt: skip
    for call in calls:
        document = changed(properties={"magmom": call}, label=call) | {
            "properties": {"a": call},
            "charge": call,
        }
        expected = encode(rutile()).canonical
        for payload in (
            document,
            json.dumps(document),
            {"structure": document, "data": {"x": call}, "parameters": call},
        ):
            assert encode(payload).canonical == expected
        sneaky = document | call if isinstance(call, dict) else document
        assert read_pymatgen(sneaky).species == ("Ti", "Ti", "O", "O", "O", "O")
        ase = json.loads(ase_json(rutile()))
        ase["1"] |= {"info": call, "calculator": call, "constraints": [call], "data": call}
        assert encode(json.dumps(ase)).canonical == expected
        entry = optimade(rutile())
        entry["attributes"] |= {"_exmpl_x": call}
        assert encode(json.dumps(entry | {"relationships": call})).canonical == expected
    assert not mark.exists()
