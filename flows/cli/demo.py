"""The demo: the pipeline of deployments/configs/pipeline.yaml, on the real structures in flows/demo_data."""

import os
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from flows.pipeline import PipelineConfig, PipelineResult, pipeline
from tasks.tracking import runs_folder

PROJECT = Path(__file__).parents[2]
DATA = PROJECT / "flows" / "demo_data"
CONFIG = PROJECT / "deployments" / "configs" / "pipeline.yaml"


NEXT = """Prefect and MLflow pages of this run: [bold]make ui[/bold]
With your own files (the commands are in .venv/bin):
  [bold]cloud predict my.cif[/bold]
  [bold]cloud encode my-folder --to runs/lake/mine[/bold]
  [bold]cloud finetune --config my.yaml[/bold], after deployments/configs/finetune.yaml"""


def demo_config(data: Path = DATA, **stages: dict[str, Any]) -> PipelineConfig:
    """The configuration of the pipeline as it is shipped, on the files of `data`, in the runs folder.

    stages: keys of a stage that are to be otherwise; the tests run it smaller.
    """
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8").replace("flows/demo_data", str(data)))
    values["encode"]["table"] = str(runs_folder() / "lake" / "structures")
    for stage, keys in stages.items():
        values[stage] = _merged(values[stage], keys)
    return PipelineConfig.model_validate(values)


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | {
        key: _merged(values[key], change) if isinstance(change, dict) and key in values else change
        for key, change in changes.items()
    }


def demo(as_json: bool = False) -> None:
    """Run it and print what was done, how long it took, the figures and where things are."""
    started = time.monotonic()
    result = pipeline(demo_config())
    seconds = time.monotonic() - started
    if as_json:
        print(result.model_dump_json())
    else:
        show(result, seconds, Console())


def show(result: PipelineResult, seconds: float, console: Console) -> None:
    table = Table(title=f"The chain in {seconds:.0f} s", show_lines=True)
    for heading in ("step", "s", "figures", "where"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "s" else "left")
    for step in result.steps:
        table.add_row(step.step, f"{step.seconds:.0f}", step.figures, relative(step.where))
    console.print(table)
    for name, message in result.gates.items():
        console.print(f"gate of {name} (version {result.versions[name]}) {message}", soft_wrap=True)
    for prediction in result.predictions:
        console.print(
            f"{Path(prediction.file).name}, never trained on: {values_line(prediction.values)}",
            soft_wrap=True,
        )
    console.print(f"\n{NEXT}")


def values_line(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def relative(path: str) -> str:
    """Shorter than the absolute path, where it lies below this folder."""
    return path.replace(f"{Path.cwd()}{os.sep}", "")
