"""`cloud` on the shell: a thin face on the flows and functions.

Heavy imports wait until a command needs them.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Crystal structures to SCOPE strings, and models of them.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ConfigFile = Annotated[Path, typer.Option("--config", help="YAML file; examples in deployments/configs/.")]
TableUri = Annotated[str, typer.Argument(help="Table: a folder or an s3:// address.")]


def embedded_prefect_home() -> Path:
    return Path(os.environ.get("CLOUD_RUNS", "runs")).absolute() / "prefect"


def use_embedded_prefect() -> None:
    """Without a Prefect server of the user's own, a temporary one; its records stay for `cloud ui`."""
    own = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"} & os.environ.keys()
    if own or (Path.home() / ".prefect" / "profiles.toml").is_file():
        return
    defaults = {
        "PREFECT_HOME": str(embedded_prefect_home()),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def plain(value: Any) -> Any:
    """Results (dataclasses, pydantic models, paths) as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and callable(value.item):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def show(result: Any, as_json: bool) -> None:
    values = plain(result)
    if as_json:
        print(json.dumps(values, default=str))
        return
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict):
            print(f"{key}:")
            for name, item in value.items():
                print(f"  {name}: {item}")
        else:
            print(f"{key}: {value}")


@app.command()
def scope(
    files: Annotated[list[Path], typer.Argument(help="CIF, POSCAR or pymatgen JSON files.")],
    form: Annotated[str, typer.Option(help="canonical, official or full.")] = "canonical",
    as_json: AsJson = False,
) -> None:
    """Print the SCOPE string of each file.

    Example: cloud scope NaCl.cif
    """
    from cloud_core.scope import ScopeError, encode
    from cloud_core.structures.errors import StructureError

    if form not in ("canonical", "official", "full"):
        raise ValueError(f"--form {form}: choose canonical, official or full")
    failed = False
    shown = []
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            encoded = encode(path, forms=(form,))
        except (StructureError, ScopeError) as error:
            failed = True
            print(f"cloud: {path}: {error}", file=sys.stderr)
            continue
        if as_json:
            shown.append({"file": str(path), **plain(encoded)})
        else:
            text = getattr(encoded, form)
            print(text if len(files) == 1 else f"{path}: {text}")
    if as_json:
        print(json.dumps(shown))
    if failed:
        raise typer.Exit(1)


@app.command()
def encode(
    source: Annotated[
        str, typer.Argument(help="Folder, archive, table or named set, e.g. cifs/ or matbench:phonons.")
    ],
    to: Annotated[str, typer.Option(help="Table to write: a folder or an s3:// address.")],
    workers: Annotated[int, typer.Option(help="Local Dask workers.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Encode structures into a table; what is encoded already is left alone.

    Example: cloud encode cifs/ --to runs/lake/structures
    """
    use_embedded_prefect()
    from flows.encode import EncodeConfig
    from flows.encode import encode as flow
    from tasks.cluster import ClusterConfig

    show(flow(EncodeConfig(source=source, table=to, cluster=ClusterConfig(workers=workers))), as_json)


@app.command()
def status(
    table: TableUri,
    version: Annotated[int | None, typer.Option(help="A past version.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rows, files, versions, quarantine by reason and unfinished work of a table.

    Example: cloud status runs/lake/structures
    """
    from cloud_core.lake.status import status as table_status

    show(table_status(table, version=version), as_json)


@app.command()
def demo(
    runs: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run the whole chain on real structures that come with the project, in a few minutes on two cores.

    Example: cloud demo
    """
    os.environ["CLOUD_RUNS"] = str(runs.absolute())
    use_embedded_prefect()
    from flows.pipeline import demo as run_demo

    run_demo(as_json=as_json)


@app.command()
def ui(
    runs: Annotated[Path, typer.Option(help="The folder that the runs were written to.")] = Path("runs"),
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
) -> None:
    """Serve the Prefect and MLflow pages on what the embedded runs left, on this machine only.

    Example: cloud ui
    """
    os.environ["CLOUD_RUNS"] = str(runs.absolute())
    from flows.ui import serve

    serve(embedded_prefect_home(), prefect_port, mlflow_port)


def fail_in_one_line(command: Callable[[], Any]) -> None:
    """Run a command; bad input becomes one line on stderr and exit code 1.

    `CLOUD_TRACEBACK=1` shows the trace.
    """
    try:
        command()
    except (ValueError, OSError) as error:
        if os.environ.get("CLOUD_TRACEBACK"):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"cloud: {text}", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    fail_in_one_line(app)


if __name__ == "__main__":
    main()
