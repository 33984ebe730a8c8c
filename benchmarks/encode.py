"""Structures per second: the published route, ours in the official form, ours in the canonical form.

    python benchmarks/encode.py --cifs ../shared/data/crysxpp/mp_cifs_36737.parquet \
        --arrays ../shared/data/wbm/wbm_initial_structures.parquet --structures 1000

One core, one process a route; the processes take turns on blocks of the same structures, so that a change
of the machine's speed meets all alike. Ours read a block before they encode it, as the workers of
`cloud_core.scope.isolation` do. The floor is the bare call of the symmetry library on prepared arrays
and gemmi's bare parse for files. Input is read and converted before the clock starts; the published route
gets real files, since that is what it reads. Times are CPU times, since others may use the machine.
"""

import argparse
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cloud_core.scope import EncoderSettings
from cloud_core.scope.encoder import encode_cell
from cloud_core.scope.tables import ATOMIC_NUMBERS, space_groups
from cloud_core.structures import Cell, read

BLOCK = 50
PASSES = 4  # the best time counts
OFFICIAL, CANONICAL = EncoderSettings(forms=("official",)), EncoderSettings(forms=("canonical",))


def published(structure: Any) -> str:
    """The published route: pymatgen from the file to the string."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    analyzer = SpacegroupAnalyzer(structure, symprec=0.01, angle_tolerance=5)
    group = space_groups()[analyzer.get_space_group_number()]
    symbols = dict.fromkeys(group.symbols[letter] for letter in analyzer.get_symmetry_dataset().wyckoffs)
    composition = structure.composition.fractional_composition.get_el_amt_dict()
    parts = (f"{element} {np.round(fraction, 2)}" for element, fraction in composition.items())
    return f"{group.generators} | {' '.join(symbols)} | {' '.join(parts)}"


def published_file(path: str) -> str:
    from pymatgen.core import Structure

    return published(Structure.from_file(path))


def published_arrays(cell: Cell) -> str:
    from pymatgen.core import Structure

    return published(Structure(cell.lattice, cell.species, cell.fractions))


def read_text(text: str) -> Cell:
    return read(text, "cif")


def official(cell: Cell) -> str | None:
    return encode_cell(cell, OFFICIAL).official


def canonical(cell: Cell) -> str | None:
    return encode_cell(cell, CANONICAL).canonical


def gemmi_parse(text: str) -> None:
    import gemmi

    gemmi.cif.read_string(text)


def spglib_call(prepared: tuple[Any, ...]) -> None:
    from spglib import _spglib

    _spglib.dataset(*prepared, 0, 0.01, 5.0)


def moyo_call(cell: Any) -> None:
    import moyopy

    moyopy.MoyoDataset(cell, symprec=0.01)


def for_spglib(cell: Cell) -> tuple[Any, ...]:
    kinds = {label: i for i, label in enumerate(dict.fromkeys(cell.species), start=1)}
    numbers = np.array([kinds[label] for label in cell.species], dtype="intc")
    return np.array(cell.lattice.T, order="C"), np.array(cell.fractions, order="C"), numbers


def for_moyo(cell: Cell) -> Any:
    import moyopy

    numbers = [ATOMIC_NUMBERS[symbol] for symbol in cell.species]
    return moyopy.Cell(cell.lattice.tolist(), cell.fractions.tolist(), numbers)


def serve(
    pipe: Any, stages: Sequence[Callable[[Any], Any]], prepare: Callable[[Any], Any], inputs: list[Any]
) -> None:
    """A route's process: times the structures of each block that it is told, in ms."""
    warnings.simplefilter("ignore")
    logging.getLogger("moyo").setLevel(logging.ERROR)
    prepared = [prepare(item) for item in inputs]
    pipe.send("ready")
    while (block := pipe.recv()) is not None:
        items = prepared[block[0] : block[1]]
        times = np.zeros(len(items))
        for stage in stages:
            for i, item in enumerate(items):
                start = time.thread_time()
                items[i] = stage(item)
                times[i] += (time.thread_time() - start) * 1e3
        pipe.send(times)


def race(routes: dict[str, tuple[Any, Any, list[Any]]], count: int) -> dict[str, np.ndarray]:
    """Milliseconds `[count]` of each route, the better of all passes."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name, route in routes.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, *route), daemon=True).start()
    for pipe in pipes.values():
        pipe.recv()
    times = {name: np.full(count, np.inf) for name in routes}
    for _ in range(PASSES):
        for start in range(0, count, BLOCK):
            block = (start, min(start + BLOCK, count))
            for name, pipe in pipes.items():
                pipe.send(block)
                view = times[name][block[0] : block[1]]
                np.minimum(view, pipe.recv(), out=view)
    for pipe in pipes.values():
        pipe.send(None)
    return times


def read_by_pymatgen(text: str) -> Any:
    from pymatgen.io.cif import CifParser

    return CifParser.from_str(text).parse_structures(primitive=False)[0]


def symmetric(texts: Sequence[str], count: int) -> list[str]:
    """Files with operators, as pymatgen writes them, of the first `count` structures that it can write so."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for text in texts:
            structure = Structure.from_str(text, fmt="cif")
            if len(structure) <= 100:
                found.append(str(CifWriter(structure, symprec=0.01)))
            if len(found) == count:
                break
    return found


def report_reading(times: dict[str, np.ndarray]) -> None:
    ours, theirs = times["ours"], times["pymatgen"]
    print(f"\nReading files with operators: {len(ours)} structures, CPU ms each")
    for name, values in times.items():
        print(f"{name:12s}{values.mean():10.3f}{np.median(values):10.3f}")
    print(f"pymatgen / ours: mean {theirs.mean() / ours.mean():.2f}, median {np.median(theirs / ours):.2f}")


def identity(item: Any) -> Any:
    return item


def report(title: str, times: dict[str, np.ndarray]) -> None:
    base = times["published"]
    print(f"\n{title}: {len(base)} structures, CPU ms each")
    titles = ("mean", "median", "per s", "mean ×", "median ×", "vs floor")
    print(f"{'route':12s}" + "".join(f"{title:>10s}" for title in titles))
    parse = times.get("bare gemmi", np.zeros(len(base)))
    floors = {"official": times["bare spglib"] + parse, "canonical": times["bare moyo"] + parse}
    for name, values in times.items():
        cells = [f"{values.mean():10.3f}", f"{np.median(values):10.3f}", f"{1e3 / values.mean():10.0f}"]
        cells += [f"{base.mean() / values.mean():10.2f}", f"{np.median(base / values):10.2f}"]
        if name in floors:
            cells.append(f"{values.mean() / floors[name].mean():10.2f}")
        print(f"{name:12s}" + "".join(cells))
    own = times["official"] - times["bare spglib"]
    print(f"official, all but the C call: mean {own.mean():.3f} ms, median {np.median(own):.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifs", type=Path, help="parquet file with a column `cif`")
    parser.add_argument("--arrays", type=Path, help="parquet file with lattice, abc, species")
    parser.add_argument("--structures", type=int, default=1000)
    parser.add_argument("--symmetric", type=int, default=100, help="files with operators, read alone")
    parser.add_argument("--max-sites", type=int, default=None, help="only cells up to this size")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    if options.cifs:
        column = pd.read_parquet(options.cifs, columns=["cif"])["cif"]
        texts = [bytes(column[i]).decode() for i in rng.permutation(len(column))]
        if options.max_sites:
            texts = [text for text in texts if len(read(text, "cif")) <= options.max_sites]
        texts = texts[: options.structures]
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for index, text in enumerate(texts):
                paths.append(str(Path(folder) / f"{index}.cif"))
                Path(paths[-1]).write_text(text)
            cells = [read(text, "cif") for text in texts]
            times = race(
                {
                    "published": ([published_file], identity, paths),
                    "official": ([read_text, official], identity, texts),
                    "canonical": ([read_text, canonical], identity, texts),
                    "bare gemmi": ([gemmi_parse], identity, texts),
                    "bare spglib": ([spglib_call], for_spglib, cells),
                    "bare moyo": ([moyo_call], for_moyo, cells),
                },
                len(texts),
            )
        report(f"CIF files of {options.cifs.name}", times)
        with_operators = symmetric(texts, options.symmetric)
        report_reading(
            race(
                {
                    "pymatgen": ([read_by_pymatgen], identity, with_operators),
                    "ours": ([read_text], identity, with_operators),
                },
                len(with_operators),
            )
        )
    if options.arrays:
        table = pd.read_parquet(options.arrays)
        rows = table.iloc[rng.choice(len(table), options.structures, replace=False)]
        cells = [
            Cell(np.array(r.lattice).reshape(3, 3), tuple(r.species.split()), np.array(r.abc).reshape(-1, 3))
            for r in rows.itertuples()
        ]
        times = race(
            {
                "published": ([published_arrays], identity, cells),
                "official": ([official], identity, cells),
                "canonical": ([canonical], identity, cells),
                "bare spglib": ([spglib_call], for_spglib, cells),
                "bare moyo": ([moyo_call], for_moyo, cells),
            },
            len(cells),
        )
        report(f"Arrays of {options.arrays.name}", times)


if __name__ == "__main__":
    main()
