"""OPTIMADE against the reference server, with faults between it and us."""

import copy
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_core.sources.catalogue import open_source
from cloud_core.sources.optimade import _same_origin, _smaller
from cloud_core.sources.record import Feed, Record, Source, SourceError
from cloud_core.structures.errors import Reason, StructureError
from cloud_core.structures.formats import read
from tests.servers import stop
from tests.sources.conftest import optimade_entries, serve_optimade
from tests.sources.proxy import Proxy

pytestmark = pytest.mark.integration

QUICK = {"requests_per_second": 1000, "backoff_s": 0.01, "attempts": 2}


def source(url: str, cache: Path, **options: Any) -> Source:
    spec = {
        "kind": "optimade",
        "providers": [{"name": "one", "url": url}],
        "page_limit": 4,
        "cache": str(cache),
        "politeness": QUICK,
    }
    return open_source(spec | options)


def records(source: Source, since: datetime | None = None) -> list[Record]:
    return [record for partition in source.partitions(since) for record in source.read(partition)]


def offsets(proxy: Proxy) -> list[str]:
    """Where the data pages that were asked for begin."""
    pages = [request for request in proxy.requests if "lattice_vectors" in request]
    return [p.rpartition("page_offset=")[2] if "page_offset=" in p else "0" for p in pages]


def test_structures_equal_those_of_the_packages_own_adapter(optimade_server: str, tmp_path: Path) -> None:
    from optimade.adapters import Structure

    found = {r.id: r for r in records(source(optimade_server, tmp_path, licence="CC-BY-4.0"))}
    entries = optimade_entries()
    assert sorted(found) == sorted(f"one/{entry['id']}" for entry in entries)
    for entry in entries:
        record = found[f"one/{entry['id']}"]
        attributes = entry["attributes"] | {
            "chemical_formula_descriptive": "X",
            "elements_ratios": entry["attributes"]["elements_ratios"],
        }
        expected = Structure(entry | {"attributes": attributes}).as_pymatgen
        cell = read(record.payload, record.format)
        assert [site.specie.symbol for site in expected] == list(cell.species)
        np.testing.assert_allclose(cell.lattice, expected.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(cell.fractions @ cell.lattice, expected.cart_coords, atol=1e-8)
        assert (record.source, record.licence) == ("optimade", "CC-BY-4.0")
        stated = datetime.fromisoformat(entry["attributes"]["last_modified"].replace("Z", "+00:00"))
        assert record.modified_at == stated


def test_filter_and_labels(optimade_server: str, tmp_path: Path) -> None:
    labels = {"n_elements": {"column": "nelements", "unit": "1"}}
    filtered = records(source(optimade_server, tmp_path, filter="nelements>=7", labels=labels))
    expected = {e["id"]: e["attributes"]["nelements"] for e in optimade_entries()}
    expected = {f"one/{k}": {"n_elements": float(v)} for k, v in expected.items() if v >= 7}
    assert {r.id: dict(r.labels) for r in filtered} == expected
    assert filtered[0].label_units == {"n_elements": "1"}


def test_only_what_changed_since(optimade_server: str, tmp_path: Path) -> None:
    opened = source(optimade_server, tmp_path)
    boundary = datetime(2019, 6, 8, 5, 13, 37, tzinfo=UTC)
    newer = [r for r in records(opened, boundary) if r.modified_at and r.modified_at >= boundary]
    assert len(newer) == len(records(opened, boundary)) == 16  # mpf_3819 is of 2018
    assert records(opened, datetime(2020, 1, 1, tzinfo=UTC)) == []
    assert records(opened, {"another": boundary}) == records(opened)
    whole, part = (next(iter(opened.partitions(since))) for since in (None, boundary))
    assert whole.cursor == part.cursor and part.at["total"] == 17  # the cursor is of the database
    assert isinstance(opened, Feed) and sum(1 for _ in opened.ids(part)) == 17


READER = """
import sys
from cloud_core.sources.catalogue import open_source
source = open_source(eval(sys.argv[1]))
for partition in source.partitions():
    for record in source.read(partition):
        print(record.id, flush=True)
"""


def test_killed_in_mid_paging_goes_on_without_gap_or_repeat(faulty_optimade: Proxy, tmp_path: Path) -> None:
    spec = {
        "kind": "optimade",
        "providers": [{"name": "one", "url": faulty_optimade.url}],
        "page_limit": 4,
        "cache": str(tmp_path),
        "politeness": QUICK,
    }

    def hang(path: str, number: int) -> None:
        if "lattice_vectors" in path and "page_offset=8" in path:
            time.sleep(60)

    faulty_optimade.fault = hang  # type: ignore[assignment]
    reader = subprocess.Popen([sys.executable, "-c", READER, repr(spec)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    first = [reader.stdout.readline().strip() for _ in range(8)]  # two pages; the third hangs
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    assert reader.returncode == -signal.SIGKILL

    faulty_optimade.fault = lambda path, number: None
    faulty_optimade.requests.clear()
    resumed = [record.id for record in records(open_source(spec))]
    assert offsets(faulty_optimade) == ["8", "12", "16"]  # the first two pages were not asked for again
    whole = [f"one/{entry['id']}" for entry in optimade_entries()]
    assert resumed == whole and first == whole[:8]

    faulty_optimade.requests.clear()
    assert [record.id for record in records(open_source(spec))] == whole
    assert offsets(faulty_optimade) == []  # nothing changed: only the listing asked the server


def test_smaller_pages_when_the_server_gives_up(faulty_optimade: Proxy, tmp_path: Path) -> None:
    def too_much(path: str, number: int) -> tuple[int, str, bytes] | None:
        if "lattice_vectors" in path and "page_offset=8" in path and "page_limit=4" in path:
            return 503, "text/html", b"<html>busy</html>"
        return None

    faulty_optimade.fault = too_much
    found = [record.id for record in records(source(faulty_optimade.url, tmp_path))]
    assert found == [f"one/{entry['id']}" for entry in optimade_entries()]
    limits = [r.partition("page_limit=")[2].partition("&")[0] for r in faulty_optimade.requests]
    assert "2" in limits


def test_page_numbers_are_counted_anew_for_smaller_pages() -> None:
    assert _smaller("http://x/v1/structures?page_number=3&page_limit=100") == (
        "http://x/v1/structures?page_number=5&page_limit=50"
    )
    assert "page_limit=5" in str(_smaller("http://x/s?page_limit=15&page_offset=30"))  # 30 is a multiple of 5
    assert _smaller("http://x/s?page_limit=1") is None


def test_one_provider_that_answers_html_stops_no_other(faulty_optimade: Proxy, tmp_path: Path) -> None:
    working = faulty_optimade.upstream
    faulty_optimade.fault = lambda path, number: (
        200,
        "text/html",
        b"<!DOCTYPE html><html>maintenance</html>",
    )
    providers = [
        {"name": "broken", "url": faulty_optimade.url},
        {"name": "gone", "url": "http://127.0.0.1:9/optimade"},
        {"name": "works", "url": working, "licence": "CC0-1.0"},
    ]
    opened = source("", tmp_path, providers=providers)
    problems, good = {}, []
    for partition in opened.partitions():
        try:
            good += list(opened.read(partition))
        except SourceError as error:
            problems[partition.key] = str(error)
    assert len(good) == 17 and {r.licence for r in good} == {"CC0-1.0"}
    assert "text/html, not JSON" in problems["broken"]
    assert "no answer" in problems["gone"] and "try again" in problems["gone"]


def test_a_next_page_that_was_read_already_ends_that_provider(faulty_optimade: Proxy, tmp_path: Path) -> None:
    import httpx

    def circle(path: str, number: int) -> tuple[int, str, bytes] | None:
        if "lattice_vectors" not in path or "page_offset=8" not in path:
            return None
        answer = httpx.get(faulty_optimade.upstream + path).json()
        answer["links"]["next"] = faulty_optimade.url + path
        return 200, "application/json", httpx.Response(200, json=answer).content

    faulty_optimade.fault = circle
    with pytest.raises(SourceError, match="leads back to"):
        records(source(faulty_optimade.url, tmp_path))


def test_fields_that_the_next_page_drops_are_asked_again() -> None:
    asked = "http://x/v1/structures?response_fields=a%2Cb&page_limit=4"
    following = "http://inner:8080/v1/structures?page_offset=4&page_limit=4"
    assert _same_origin(following, asked) == f"http://x{following[17:]}&response_fields=a%2Cb"
    kept = f"{following}&response_fields=c"
    assert _same_origin(kept, asked).endswith("page_limit=4&response_fields=c")


@pytest.mark.parametrize("name", ["..", ".", "../x", ".hidden"])
def test_a_providers_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(SourceError, match="name"):
        open_source({"kind": "optimade", "providers": [{"name": name, "url": "http://x"}]})


def test_a_listing_that_loses_entries_is_an_error(faulty_optimade: Proxy, tmp_path: Path) -> None:
    import httpx

    def lossy(path: str, number: int) -> tuple[int, str, bytes] | None:
        if "lattice_vectors" not in path or "page_offset=4" not in path:
            return None
        answer = httpx.get(faulty_optimade.upstream + path).json()
        del answer["data"][0]
        return 200, "application/json", httpx.Response(200, json=answer).content

    faulty_optimade.fault = lossy
    with pytest.raises(SourceError, match="announced 17 structures and gave 16"):
        records(source(faulty_optimade.url, tmp_path))
    assert len(records(source(faulty_optimade.url, tmp_path, check_count=False))) == 16
    faulty_optimade.fault = lambda path, number: None
    assert len(records(source(faulty_optimade.url, tmp_path))) == 17  # what was lost is not kept on disk


def test_what_an_entry_says_of_itself_is_for_the_reader(tmp_path: Path) -> None:
    """Disorder is read, assemblies are refused, a layer has a note: the same as from a file."""
    names = ("ordered", "disordered", "assembly", "layer", "empty")
    ordered, disordered, assembly, layer, empty = (copy.deepcopy(optimade_entries()[2]) for _ in names)
    for entry, name in zip((ordered, disordered, assembly, layer, empty), names, strict=True):
        entry["id"] = name
    attributes = disordered["attributes"]
    attributes["species"] = copy.deepcopy(attributes["species"])
    attributes["species"][0] |= {"chemical_symbols": ["Ac", "La"], "concentration": [0.5, 0.5]}
    attributes["structure_features"] = ["disorder"]
    groups = {"sites_in_groups": [[0], [1]], "group_probabilities": [0.5, 0.5]}
    assembly["attributes"] |= {"structure_features": ["assemblies"], "assemblies": [groups]}
    layer["attributes"] |= {"dimension_types": [1, 1, 0], "nperiodic_dimensions": 2}
    empty["attributes"] |= {"lattice_vectors": None, "cartesian_site_positions": None}
    process, url = serve_optimade(tmp_path, [ordered, disordered, assembly, layer, empty])
    try:
        found = {r.id: r for r in records(source(url, tmp_path / "cache"))}
    finally:
        stop(process)
    assert found["one/empty"].refusal == "missing_structure"
    assert not any(record.refusal for name, record in found.items() if name != "one/empty")
    cells = {name: read(record.payload, "optimade") for name, record in found.items() if "ed" in name}
    assert cells["one/ordered"].occupancies is None
    assert {"Ac": 0.5, "La": 0.5} in (cells["one/disordered"].occupancies or ())
    assert [note.flag for note in read(found["one/layer"].payload, "optimade").notes] == ["not_periodic"]
    with pytest.raises(StructureError, match="assemblies") as error:
        read(found["one/assembly"].payload, "optimade")
    assert error.value.reason is Reason.UNSUPPORTED


def test_a_wrong_filter_is_a_clear_error(optimade_server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"HTTP 400.*check the address, the filter"):
        records(source(optimade_server, tmp_path, filter="nelements >"))
