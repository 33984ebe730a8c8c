"""The demo: the whole chain on the real structures in `flows/demo_data`, sized for two cores."""

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.pipeline import PipelineConfig, PipelineResult, pipeline
from tasks.tracking import runs_folder

DATA = Path(__file__).parents[1] / "demo_data"
ENERGY = "formation_energy_per_atom"
ENCODER = {"hidden_size": 128, "layers": 4, "heads": 4, "feed_forward": 512}


def demo_config(
    data: Path = DATA,
    workers: int = 2,
    pretrain_epochs: float = 20,
    finetune_epochs: int = 40,
    debye_epochs: int = 40,
    encoder: dict[str, int] | None = None,
) -> PipelineConfig:
    """The demo's configuration; the tests run it smaller."""
    table = str(runs_folder() / "lake" / "structures")
    labels = {
        "path": str(data / "labels.csv"),
        "key": "material_id",
        "columns": {
            ENERGY: {"unit": "eV/atom"},
            "e_above_hull": {"unit": "eV/atom"},
            "band_gap": {"unit": "eV"},
        },
    }
    structures = {
        "kind": "files",
        "name": "mp",
        "path": str(data / "structures.zip"),
        "licence": "CC-BY-4.0",
        "labels": labels,
    }
    fit = {"batch_size": 32, "patience": 12, "optimiser": {"learning_rate": 5e-4, "warmup": 0.1}}
    return PipelineConfig(
        encode={
            "source": structures,
            "table": table,
            "encoding": {"chunk_rows": 250},
            "cluster": {"workers": workers},
        },
        pretrain={
            "name": "demo-encoder",
            "encoder": encoder or ENCODER,
            "epochs": pretrain_epochs,
            "batch_size": 64,
            "validation_fraction": 0.1,
            "validate_every": 100,
            "optimiser": {"learning_rate": 1e-3, "warmup": 0.1},
            "launch": {"processes": 2},
        },
        finetune={
            "name": "demo-formation-energy",
            "targets": [{"label": ENERGY, "unit": "eV/atom"}],
            "fit": fit | {"epochs": finetune_epochs},
            "baselines": ["mean", "composition random forest"],
            "scratch_baseline": False,
        },
        screen={
            "name": "demo-screening",
            "source": {
                "kind": "table",
                "name": "wbm",
                "path": str(data / "candidates.parquet"),
                "licence": "CC-BY-4.0",
            },
            "labels": {
                "path": str(data / "candidate_labels.csv"),
                "note": "a small sample of WBM, tails over-represented: not comparable with the leaderboard",
            },
            "shortlist": 20,
            "cluster": {"workers": workers},
        },
        debye={
            "name": "demo-debye",
            "data": {"path": str(data / "heat_capacity.csv")},
            "fit": fit | {"epochs": debye_epochs},
            "direct": False,
            "temperatures": "0:1000:10",
            "crystals": 3,
        },
        predict=(str(data / "held_out.cif"),),
    )


def demo(as_json: bool = False) -> None:
    """Run it and print what was done, how long it took, the figures and where things are."""
    started = time.monotonic()
    result = pipeline(demo_config())
    seconds = time.monotonic() - started
    if as_json:
        print(json.dumps(result.model_dump(mode="json"), default=str))
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
    console.print("\nPrefect and MLflow pages of this run: [bold]make ui[/bold]")


def values_line(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def relative(path: str) -> str:
    """Shorter than the absolute path, where it lies below this folder."""
    return path.replace(f"{Path.cwd()}{os.sep}", "")
