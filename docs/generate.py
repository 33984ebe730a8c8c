"""What the docs say of the code: `python docs/generate.py` writes modules.md and figures/imports.svg."""

import ast
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PACKAGES = ("cloud_core", "tasks", "flows")
# From the bottom up; each layer imports those below it alone (tests/test_walls.py).
LAYERS = (
    ("errors", "units", "config", "files"),
    ("structures", "lake", "models"),
    ("sources", "scope"),
    ("encoding", "training"),
    ("inference",),
    ("evaluation",),
    ("tasks",),
    ("flows",),
    ("flows/cli",),
)


def first_sentence(node: ast.AST) -> str:
    """Of a docstring, in one line."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())  # type: ignore[arg-type]
    return text.partition(". ")[0].rstrip(".") if text else ""


def modules() -> str:
    """Each module with its purpose, and its public functions and classes."""
    lines = ["# Modules", "", "Made by `python docs/generate.py` from the docstrings.", ""]
    for package in PACKAGES:
        folder = None
        for path in sorted((PROJECT / package).rglob("*.py"), key=lambda p: (p.parent.parts, p.name)):
            if path.name in ("__init__.py", "__main__.py"):
                continue
            if path.parent != folder:
                folder = path.parent
                lines += ([""] if lines[-1] else []) + [f"## {folder.relative_to(PROJECT)}", ""]
            tree = ast.parse(path.read_text(encoding="utf-8"))
            lines.append(f"- **`{path.name}`**: {first_sentence(tree)}.")
            for node in tree.body:
                is_public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
                if is_public and (said := first_sentence(node)):
                    name = node.name if isinstance(node, ast.ClassDef) else f"{node.name}()"
                    lines.append(f"    - `{name}`: {said}.")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def layer_of(path: Path) -> str:
    """The box of the picture that a file is in."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    if parts[0] == "cloud_core":
        return parts[1]
    return "flows/cli" if parts[:2] == ("flows", "cli") else parts[0]


def imports() -> Counter[tuple[str, str]]:
    """(from, to) → how many files of the one box import from the other."""
    found: Counter[tuple[str, str]] = Counter()
    boxes = {box for layer in LAYERS for box in layer}
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*.py"):
            targets = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names.append(node.module)
                for name in names:
                    parts = name.split(".")
                    if parts[0] in PACKAGES:
                        place = "/".join(parts[:2]) if parts[:2] == ["flows", "cli"] else parts[0]
                        targets.add(parts[1] if place == "cloud_core" and len(parts) > 1 else place)
            source = layer_of(path)
            found.update((source, target) for target in targets & boxes - {source})
    return found


def picture() -> str:
    """The import picture as SVG: a row a layer, an arrow where a box imports from one below."""
    width, height, step = 860, 84 * len(LAYERS) + 20, 84
    centre = {
        box: (width * (place + 1) / (len(layer) + 1), height - 50 - step * row)
        for row, layer in enumerate(LAYERS)
        for place, box in enumerate(layer)
    }
    shapes = []
    for (source, target), n in sorted(imports().items()):
        (x1, y1), (x2, y2) = centre[source], centre[target]
        bend = (x1 + x2) / 2 + (90 if abs(x1 - x2) < 1 and y2 - y1 > step else 0)
        shapes.append(
            f'<path d="M{x1:.0f} {y1 + 18:.0f} Q{bend:.0f} {(y1 + y2) / 2:.0f} {x2:.0f} {y2 - 18:.0f}" '
            f'fill="none" stroke="#678" stroke-opacity="0.55" stroke-width="{min(0.6 + n / 8, 4):.1f}"/>'
        )
    for box, (x, y) in centre.items():
        shapes.append(
            f'<rect x="{x - 62:.0f}" y="{y - 18:.0f}" width="124" height="36" rx="6" '
            f'fill="#eef3f8" stroke="#456"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{box}</text>'
        )
    style = 'font-family="sans-serif" font-size="14"'
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>\n{body}\n</svg>\n'
    )


def main() -> None:
    docs = PROJECT / "docs"
    (docs / "modules.md").write_text(modules(), encoding="utf-8")
    (docs / "figures" / "imports.svg").write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
