"""Import rules between the layers (docs/architecture.md)."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ORCHESTRATION = {"prefect", "prefect_dask", "dask", "distributed", "mlflow"}
# Modules beside the packages, and then the packages: each imports those below it alone.
LAYERS = [
    {"errors", "units"},
    {"config", "files"},
    {"structures", "lake", "models"},
    {"sources", "scope"},
    {"encoding", "training"},
    {"inference"},
    {"evaluation"},
]
# What a borrowed GPU machine has: the ranks of a training job import nothing else (numpy, pyarrow, …).
RANK_LIBRARIES = {"torch", "numpy", "pyarrow", "safetensors", "cloud_core"}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth, type-checking blocks included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def python_files(project: Path, *folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((project / folder).rglob("*.py"))]
    assert files, f"no Python files under {folders}"
    return files


def test_the_science_knows_no_orchestration(project: Path) -> None:
    forbidden = ORCHESTRATION | {"tasks", "flows"}
    broken = {str(path): roots(path) & forbidden for path in python_files(project, "cloud_core")}
    assert not {path: names for path, names in broken.items() if names}


def test_tasks_know_no_flows_and_nothing_knows_deployments_or_benchmarks(project: Path) -> None:
    for path in python_files(project, "cloud_core", "tasks", "flows"):
        assert not roots(path) & {"deployments", "benchmarks", "tests"}, path
    for path in python_files(project, "tasks"):
        assert "flows" not in roots(path), path


def test_each_layer_imports_only_those_below(project: Path) -> None:
    layer_of = {package: level for level, packages in enumerate(LAYERS) for package in packages}
    problems = []
    for package, level in layer_of.items():
        module = project / "cloud_core" / f"{package}.py"
        for path in [module] if module.is_file() else python_files(project, f"cloud_core/{package}"):
            for name in imports(path):
                parts = name.split(".")
                if parts[0] != "cloud_core" or len(parts) < 2 or parts[1] == package:
                    continue
                if layer_of.get(parts[1], len(LAYERS)) >= level:
                    problems.append(f"{path.relative_to(project)} imports {name}")
    assert not problems


def test_no_module_is_outside_the_layers(project: Path) -> None:
    inside = (project / "cloud_core").iterdir()
    packages = {p.stem for p in inside if (p.is_dir() or p.suffix == ".py") and not p.name.startswith("_")}
    assert packages == set().union(*LAYERS)


def test_files_of_tasks_and_flows_hold_what_their_folder_says(project: Path) -> None:
    talk_to_services = {"__init__", "cluster", "tracking", "registry", "reporting", "serving"}
    for folder, decorator, aside in (("tasks", "task", talk_to_services), ("flows", "flow", {"__init__"})):
        for path in sorted((project / folder).glob("*.py")):
            text = path.read_text(encoding="utf-8")
            assert path.stem in aside or re.search(rf"^@{decorator}\b", text, re.MULTILINE), path


def test_ranks_import_no_more_than_a_gpu_machine_has(project: Path) -> None:
    """Whatever the two programs that torchrun starts import, here or in what they import of ours."""
    known = {
        ".".join(path.relative_to(project).with_suffix("").parts): path
        for path in python_files(project, "cloud_core")
    }
    waiting, seen = ["cloud_core.training.pretrain", "cloud_core.training.fit"], set()
    while waiting:
        seen.add(module := waiting.pop())
        names = imports(known[module])
        extra = {name.split(".")[0] for name in names} - RANK_LIBRARIES - set(sys.stdlib_module_names)
        if module.split(".")[1] in ("models", "training"):
            assert not extra, f"{module} imports {extra}"
        waiting += sorted((names & known.keys()) - seen)
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cloud_core.scope", ["torch", "pymatgen", "spglib", "moyopy", "pandas"]),
        ("flows.cli", ["prefect", "mlflow", "torch", "pymatgen", "mp_api", "dask", "pandas", "matplotlib"]),
    ],
)
def test_what_a_person_starts_from_a_shell_imports_late(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_no_import_sets_variables_log_levels_filters_or_limits(project: Path) -> None:
    forbidden = {"setLevel", "basicConfig", "setrlimit", "filterwarnings", "simplefilter", "putenv"}
    for path in python_files(project, "cloud_core", "tasks", "flows"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        at_import = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        for node in (inner for top in at_import for inner in ast.walk(top)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in forbidden, f"{path}:{node.lineno}"
                assert ast.unparse(node.func) not in ("os.environ.setdefault", "os.environ.update"), path
            if isinstance(node, ast.Assign):
                assert not any("os.environ" in ast.unparse(target) for target in node.targets), path
