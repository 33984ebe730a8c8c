"""What the docs say of the code is what the code says."""

import runpy
from pathlib import Path


def test_generated_pages_are_up_to_date(project: Path) -> None:
    made = runpy.run_path(str(project / "docs" / "generate.py"))
    for name, text in (("modules.md", made["modules"]()), ("figures/imports.svg", made["picture"]())):
        current = (project / "docs" / name).read_text(encoding="utf-8")
        assert current == text, f"docs/{name}: run `python docs/generate.py`"


def test_no_arrow_goes_up(project: Path) -> None:
    made = runpy.run_path(str(project / "docs" / "generate.py"))
    row = {box: number for number, layer in enumerate(made["LAYERS"]) for box in layer}
    assert all(
        row[source] > row[target] or row[source] == row[target] == 0 for source, target in made["imports"]()
    )
