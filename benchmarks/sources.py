"""What reading costs before anything is encoded: CPU time to list and a row, and peak memory.

    python benchmarks/sources.py --data ../shared/data

The MatBench file of 132,752 rows is not in the shared data; one of that size is written from the structures
of matbench_phonons and an elasticity set, repeated, in MatBench's own layout.
"""

import argparse
import gzip
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MATBENCH_ROWS = 132_752

READER = """
import json, resource, sys, time
from cloud_core.sources.catalogue import open_source
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_source(json.loads(sys.argv[1]))
begin = time.process_time()
partitions = list(source.partitions())
listed = time.process_time()
rows = refused = 0
for partition in partitions:
    for record in source.read(partition):
        rows += 1
        refused += record.refusal is not None
read = time.process_time() - listed
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(partitions), listed - begin, rows, refused, read, start / 1024, peak / 1024]))
"""


def measure(spec: dict[str, Any]) -> list[float]:
    command = [sys.executable, "-c", READER, json.dumps(spec)]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def write_matbench(data: Path, target: Path, n_rows: int) -> None:
    """A JSON file in MatBench's layout; of MATBENCH_ROWS rows, about 0.3 GB of text."""
    with gzip.open(data / "matbench" / "matbench_phonons_structures.json.gz") as file:
        structures = [json.dumps(row[0]) for row in json.load(file)["data"]]
    with gzip.open(data / "matcalc" / "mp-binary-pbe-elasticity-2025.1.json.gz") as file:
        structures += [json.dumps(row["structure"]) for row in json.load(file)]
    with gzip.open(target, "wt", compresslevel=1) as out:
        out.write(f'{{"index": {list(range(n_rows))}, "columns": ["structure", "e_form"], "data": [')
        for i, structure in zip(range(n_rows), itertools.cycle(structures), strict=False):
            out.write(f"{',' if i else ''}[{structure}, {i / 1e5}]")
        out.write("]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the shared data")
    parser.add_argument("--rows", type=int, default=MATBENCH_ROWS, help="rows of the MatBench-like file")
    arguments = parser.parse_args()
    data = arguments.data
    label = {"unit": "eV/atom"}
    with tempfile.TemporaryDirectory() as folder:
        matbench = Path(folder) / "matbench_mp_e_form.json.gz"
        write_matbench(data, matbench, arguments.rows)
        cases: dict[str, dict[str, Any]] = {
            "Parquet of arrays (WBM)": {
                "kind": "table",
                "path": str(data / "wbm/wbm_initial_structures.parquet"),
            },
            "Parquet of CIFs, labels joined (MP)": {
                "kind": "table",
                "path": str(data / "crysxpp/mp_cifs_36737.parquet"),
                "id": "material_id",
                "structure": "cif",
                "join": {
                    "path": str(data / "crysxpp/mp_labels_joined.csv.gz"),
                    "on": "path",
                    "key": "cif_path",
                },
                "labels": {"e_form": {"column": "formation_energy_per_atom"} | label},
            },
            "CSV of CIFs, gzip (mp_20)": {
                "kind": "table",
                "path": str(data / "mp_cif_csv/mp_20_biternary_val.csv.gz"),
            },
            "JSON as MatBench's, gzip": {
                "kind": "set",
                "set": "matbench:mp_e_form",
                "file": str(matbench),
            },
            "CIFs in tar.xz (COFs)": {"kind": "files", "path": str(data / "cif_edge/curated_cofs.tar.xz")},
        }
        print(f"{'source':<38}{'rows':>9}{'list, s':>10}{'µs/row':>9}{'peak, MB':>10}{'above start':>13}")
        for name, spec in cases.items():
            _, listing, rows, refused, read, start, peak = measure(spec)
            note = f"  ({refused:,.0f} refused)" if refused else ""
            figures = f"{rows:>9,}{listing:>10.3f}{read / rows * 1e6:>9.1f}{peak:>10.0f}{peak - start:>13.0f}"
            print(f"{name:<38}{figures}{note}")


if __name__ == "__main__":
    main()
