"""One small input of each kind that went wrong once, and siblings of it: the right crystal, or a true
refusal.

The table of the shared cases, then those of `cif_cases`, each through all ways in: `encode(path)`, the shell,
and a source with the encode flow's workers.
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud_core.scope import EncoderSettings, Scope, encode, encode_all
from cloud_core.scope.isolation import Encoded, Refused, encode_many
from cloud_core.sources.catalogue import open_source
from cloud_core.structures import Reason, StructureError
from tests.structures.cif_cases import CASES, KINDS
from tests.structures.small_cif import ROCKSALT, Case, cif


def shared_cases(shared: Path) -> list[tuple[Path, Case]]:
    """The table of the shared cases, with their files."""
    folder = shared / "cases" / "structures"
    rows = csv.DictReader((folder / "cases.csv").open())
    return [
        (
            folder / row["file"],
            Case(
                row["file"],
                b"",
                row["composition"],
                int(row["space_group"]) if row["space_group"] else None,
                reasons=tuple(Reason) if row["outcome"] == "refused" else (),
            ),
        )
        for row in rows
    ]


def all_files(shared: Path, folder: Path) -> dict[str, Case]:
    """All cases as files of one folder: file name → case."""
    cases = {}
    for path, case in shared_cases(shared):
        shutil.copy(path, folder / path.name)
        cases[path.name] = case
    for case in CASES.values():
        case.write(folder)
        cases[case.file] = case
    return cases


def test_each_case_has_a_file_of_its_own() -> None:
    assert (
        len({case.file for case in CASES.values()}) == len(CASES) == sum(1 for kind in KINDS for _ in kind())
    )


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=ascii(name).strip("'\"")) for name, case in CASES.items()]
)
def test_a_file_is_read_right_or_refused(case: Case, tmp_path: Path) -> None:
    faults = faults_of_encode(case, case.write(tmp_path))
    assert not faults, f"{faults}\n{case.content!r}"


def check(faults: Mapping[str, str]) -> None:
    wrong = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    assert not wrong, "\n".join(wrong)


def faults_of_encode(case: Case, path: Path) -> str:
    try:
        scope = encode(path)
    except StructureError as error:
        return case.faults_of_refusal(error.reason.value, str(error))
    return case.faults(scope)


def test_the_shared_cases_are_read_right_or_refused(shared: Path) -> None:
    cases = shared_cases(shared)
    assert len(cases) == 35
    faults = {path.name: faults_of_encode(case, path) for path, case in cases}
    check(faults)


# Files of two structures, rock salt and caesium chloride: two records, two lines, and no single string.
_SEVERAL = ("x_twoblocks.cif", "two_blocks_with_atoms")


def is_several(file: str) -> bool:
    return file.startswith(_SEVERAL)


def test_encode_all_says_the_same(shared: Path, tmp_path: Path) -> None:
    faults = {}
    for file, case in all_files(shared, tmp_path).items():
        try:
            outcomes = list(encode_all(tmp_path / file))
        except StructureError as error:
            faults[file] = case.faults_of_refusal(error.reason.value, str(error))
            continue
        if is_several(file):
            groups = [outcome.space_group for _, outcome in outcomes if isinstance(outcome, Scope)]
            distinct = len({name for name, _ in outcomes}) == 2
            faults[file] = "" if groups == [225, 221] and distinct else str(outcomes)
        elif len(outcomes) != 1:
            faults[file] = f"{len(outcomes)} structures"
        elif isinstance(outcome := outcomes[0][1], Scope):
            faults[file] = case.faults(outcome)
        else:
            faults[file] = case.faults_of_refusal(outcome.reason.value, str(outcome))
    check(faults)


def test_the_shell_says_the_same(shared: Path, tmp_path: Path) -> None:
    from flows.cli import app

    cases = all_files(shared, tmp_path)
    result = CliRunner().invoke(app, ["scope", *(str(tmp_path / file) for file in cases), "--json"])
    assert result.exit_code == 1
    encoded: dict[str, list[dict[str, Any]]] = {file: [] for file in cases}
    refused = {}
    for row in json.loads(result.stdout):
        if "reason" in row:
            refused[Path(row["file"]).name] = (row["reason"], row["message"])
            assert row["message"] in result.stderr
        else:
            encoded[Path(row["file"]).name].append(row)
    faults = {}
    for file, case in cases.items():
        rows = encoded[file]
        if is_several(file):
            faults[file] = "" if [row["space_group"] for row in rows] == [225, 221] else str(rows)
        elif len(rows) == 1:
            faults[file] = case.faults_of(rows[0]["space_group"], rows[0]["composition"], rows[0]["flags"])
        elif file in refused and not rows:
            faults[file] = case.faults_of_refusal(*refused[file])
        else:
            faults[file] = f"{len(rows)} lines and no refusal"
    check(faults)


def test_a_source_and_the_workers_say_the_same(shared: Path, tmp_path: Path) -> None:
    cases = all_files(shared, tmp_path)
    outcomes: dict[str, list[Encoded | Refused]] = {name: [] for name in cases}
    records = []
    faults = {}
    source = open_source(str(tmp_path))
    for partition in source.partitions():
        for record in source.read(partition):
            if record.refusal is None:
                records.append(record)
            else:
                outcomes[_file_of(record.id, cases)].append(
                    Refused(record.id, record.refusal, record.message)
                )
    for outcome in encode_many(records, EncoderSettings()):
        outcomes[_file_of(outcome.id, cases)].append(outcome)
    for name, case in cases.items():
        if is_several(name):
            groups = sorted(o.scope.space_group for o in outcomes[name] if isinstance(o, Encoded))
            faults[name] = "" if groups == [221, 225] else str(outcomes[name])
        elif len(outcomes[name]) != 1:
            faults[name] = f"{len(outcomes[name])} records"
        else:
            (outcome,) = outcomes[name]
            if isinstance(outcome, Encoded):
                faults[name] = case.faults(outcome.scope)
            else:
                faults[name] = case.faults_of_refusal(outcome.reason.value, outcome.message)
    check(faults)


def _file_of(record_id: str, cases: Mapping[str, Case]) -> str:
    """The file of a record, whose id is the file's name, perhaps with the block's behind it."""
    return max((name for name in cases if record_id.startswith(name)), key=len)


def test_a_mismatch_of_the_formula_can_be_flagged_instead(tmp_path: Path) -> None:
    text = cif("Ca1 Ca 0 0 0", "F1 F .25 .25 .25", symmetry=ROCKSALT, formula="Ca F3")
    scope = encode(text, settings=EncoderSettings(formula="flag"))
    assert scope.space_group == 225
    assert "formula_mismatch" in scope.flags
    assert "F3" in scope.message


def test_overlaps_can_be_flagged_instead() -> None:
    text = cif("Na1 Na 0 0 0", "Cl1 Cl 0.04 0 0", cell=(10, 10, 10, 90, 90, 90))
    scope = encode(text, settings=EncoderSettings(overlaps="flag"))
    assert "overlapping_sites" in scope.flags


def records_of(path: Path) -> Counter[str]:
    """The outcomes of a file as a source: a space group, or the reason of a refusal."""
    source = open_source(str(path))
    records = [record for partition in source.partitions() for record in source.read(partition)]
    readable = [record for record in records if record.refusal is None]
    found = Counter(str(record.refusal) for record in records if record.refusal is not None)
    for outcome in encode_many(readable, EncoderSettings()):
        found[str(outcome.scope.space_group) if isinstance(outcome, Encoded) else outcome.reason.value] += 1
    return found


def test_files_with_several_records(shared: Path) -> None:
    folder = shared / "cases" / "structures"
    frames = records_of(folder / "a_onebadframe.extxyz")
    assert frames["221"] == 2
    assert frames.total() == 3
    assert records_of(folder / "j_list.json")["221"] == 2
    assert records_of(folder / "lemat.parquet") == {"225": 1, "221": 1}
