"""`cloud` on the shell: a thin face on the flows and functions.

Heavy imports wait until a command needs them.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloud_core.errors import CloudError
from flows.cli.shell import (
    embedded_prefect_home,
    fail_in_one_line,
    has_prefect_server,
    plain,
    show,
    show_quarantine,
    use_embedded_prefect,
)

if TYPE_CHECKING:
    from cloud_core.sources.record import Source

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"cloud-pipeline {version('cloud-pipeline')}")
        raise typer.Exit


@app.callback(help="Crystal structures to SCOPE strings, and models of them.")
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ConfigFile = Annotated[Path, typer.Option("--config", help="YAML file; examples in deployments/configs/.")]
TableUri = Annotated[str, typer.Argument(help="Table: a folder or an s3:// address.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--setting", help="Of the encoder, NAME=VALUE: symprec=0.05, formula=flag, assume_periodic=true."
    ),
]
LocalWorkers = Annotated[
    int | None,
    typer.Option(min=1, help="Local Dask workers; default: 2, or $CLOUD_DASK_ADDRESS's."),
]


def local_cluster(workers: int | None) -> dict[str, Any]:
    """A configuration's `cluster` where workers were asked for; its own default otherwise."""
    return {"cluster": {"workers": workers}} if workers is not None else {}


def is_small(source: "Source") -> bool:
    """Whether a source is encoded sooner in this process than workers start."""
    from itertools import islice

    from cloud_core.encoding.local import MOST
    from cloud_core.sources.record import count_rows

    partitions = list(islice(source.partitions(), 100))
    rows = count_rows(partitions)
    return len(partitions) < 100 and rows is not None and rows <= MOST


def check_form(form: str) -> None:
    from cloud_core.scope.settings import FORMS

    if form not in FORMS:
        raise CloudError(f"--form {form}: choose {', '.join(FORMS)}")


def check_file(path: Path) -> None:
    """Raise CloudError for what is no file of structures, with what to do."""
    if path.is_dir():
        raise CloudError(f"{path}: is a folder; name its files, or `cloud encode {path} --to TABLE`")
    if not path.exists():
        raise CloudError(f"{path}: no such file")
    if not path.is_file():
        raise CloudError(f"{path}: is no regular file; write its content to one")
    if path.suffix.lower() in (".zip", ".tar", ".tgz") or ".tar." in path.name.lower():
        raise CloudError(f"{path}: is an archive; `cloud encode {path} --to TABLE` encodes its files")


def settings_given(texts: list[str] | None) -> dict[str, Any]:
    """`NAME=VALUE` options of the encoder."""
    pairs = [text.partition("=") for text in texts or ()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise CloudError(f"--setting {wrong[0]}: write NAME=VALUE, such as formula=flag")
    given: dict[str, Any] = {name.strip(): value.strip() for name, _, value in pairs}
    return given | ({"forms": given["forms"].split(",")} if "forms" in given else {})


@app.command()
def scope(
    files: Annotated[
        list[Path], typer.Argument(help="CIF, POSCAR, extended XYZ or JSON files, compressed or not.")
    ],
    form: Annotated[str, typer.Option(help="canonical, resolved, official or full.")] = "canonical",
    setting: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print the SCOPE string of each structure of each file; flags and refusals go to stderr.

    Examples: cloud scope NaCl.cif

    cloud scope slab.extxyz --setting assume_periodic=true
    """
    from cloud_core.scope.inputs import encode_inputs
    from cloud_core.scope.isolation import Refused
    from cloud_core.scope.settings import EncoderSettings, settings_of

    check_form(form)
    for path in files:
        check_file(path)
    given = settings_given(setting)
    settings = settings_of(given | {"forms": (form,)}) if given else EncoderSettings(forms=(form,))
    failed = False
    shown: list[dict[str, Any]] = []
    for place, name, outcome in encode_inputs(files, settings, one_in_this_process=True):
        path = files[place]
        input_named = {"file": str(path), "name": name.removeprefix("#")}
        if isinstance(outcome, Refused):
            failed = True
            shown.append(input_named | {"reason": outcome.reason.value, "message": outcome.message})
            where = "" if outcome.message.startswith(str(path)) else f"{path}{name}: "
            print(f"cloud: {where}{outcome.message}", file=sys.stderr)
            continue
        shown.append(input_named | plain(outcome.scope))
        if not as_json:
            text = getattr(outcome.scope, form)
            print(text if len(files) == 1 and not name else f"{path}{name}: {text}", flush=True)
            if flags := outcome.scope.flags:
                said = f" ({outcome.scope.message})" if outcome.scope.message else ""
                print(f"cloud: {path}{name}: {', '.join(flags)}{said}", file=sys.stderr)
    if as_json:
        print(json.dumps(shown))
    if failed:
        raise typer.Exit(1)


@app.command()
def encode(
    source: Annotated[
        str | None,
        typer.Argument(help="Folder, archive, table or named set: cifs/, mp.csv, wbm."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="Table to write: a folder or an s3:// address.")] = None,
    id: Annotated[str | None, typer.Option(help="Of a table: the column with the ids.")] = None,
    structure: Annotated[str | None, typer.Option(help="Of a table: the column with the structures.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Of a table: a column to keep as a label, and its unit: gap=eV.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many records.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Take so many records at random.")] = None,
    setting: Settings = None,
    workers: LocalWorkers = None,
    as_flow: Annotated[
        bool, typer.Option("--flow", help="As a Prefect flow on Dask, where some thousands would do without.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Instead of all these: a YAML file; docs/sources.md, docs/lake.md.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Encode structures into a table; what is encoded already is left alone.

    Examples: cloud encode cifs/ --to runs/lake/structures

    cloud encode mine.csv --id name --structure cif --label gap=eV --to runs/lake/mine

    cloud encode --config deployments/configs/encode.yaml
    """
    columns = (text.partition("=") for text in label or ())
    given: dict[str, Any] = {
        "id": id,
        "structure": structure,
        "labels": {name: {"column": name, "unit": unit} for name, _, unit in columns},
    }
    of_table = {key: value for key, value in given.items() if value}
    encoding = settings_given(setting)
    part = {key: n for key, n in (("limit", limit), ("sample", sample)) if n is not None}
    if config is not None and (source or to or of_table or part or workers or encoding):
        raise CloudError("give SOURCE, --to and their options, or --config alone: a configuration names all")
    if config is None and (source is None or to is None):
        raise CloudError("give SOURCE and --to TABLE, or --config FILE")
    from cloud_core.config import checked
    from cloud_core.sources.catalogue import open_source, parse_spec

    origin: Any = source
    alone = False
    if config is None:
        if of_table:  # these options are for tables
            origin = {"kind": "table", "path": source} | of_table | part
        elif part:
            origin = parse_spec(str(source)).model_dump() | part
        opened = open_source(origin)  # a wrong one is told before a server starts
        alone = not as_flow and workers is None and not has_prefect_server() and is_small(opened)
    if not alone:
        use_embedded_prefect()
    from flows.encode import EncodeConfig
    from flows.encode import encode as flow

    if config is not None:
        asked = EncodeConfig.from_yaml(config)
        open_source(asked.source)
    else:
        where = {"cluster": {"kind": "none"}} if alone else local_cluster(workers)
        values = {"source": origin, "table": to, "encoding": encoding} | where
        asked = checked(EncodeConfig, values, f"cloud encode {source}")
    result = flow.fn(asked) if alone else flow(asked)
    if as_json:
        show(result, as_json)
    else:
        print(result.summary())
    if result.reasons and not as_json:
        show_quarantine(asked.table, asked.storage)
    if result.n_quarantined and not result.n_encoded and not result.n_skipped:
        raise typer.Exit(1)  # nothing of the source could be used


@app.command()
def sources(as_json: AsJson = False) -> None:
    """List the public sets that can be encoded by name: rows, licence, what they are and where they lie.

    Example: cloud sources
    """
    from cloud_core.sources.sets import catalogue

    rows = [
        {
            "set": name,
            "rows": entry.rows,
            "licence": entry.licence,
            "about": entry.about,
            "address": entry.address or (entry.file.url if entry.file else ""),
            "reference": entry.reference,
        }
        for name, entry in catalogue().items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        count = f"{row['rows']:,}" if row["rows"] else ""
        print(f"{row['set']:<26} {count:>10}  {row['licence']}\n    {row['about']}\n    {row['address']}")


@app.command()
def status(
    table: TableUri,
    version: Annotated[int | None, typer.Option(help="A past version.")] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write the quarantine here, as CSV: ids, reasons, messages.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rows, files, versions, quarantine by reason and unfinished work of a table.

    Example: cloud status runs/lake/structures
    """
    from cloud_core.lake.status import status as table_status
    from cloud_core.scope.settings import ENCODER_VERSION

    found = table_status(table, version=version)
    if old := sum(n for known, n in found["encoder_versions"].items() if int(known) < ENCODER_VERSION):
        found["encoded_before"] = (
            f"{old:,} rows of an earlier encoder than version {ENCODER_VERSION}: the next encode or sync of "
            "their source reads them again"
        )
    show(found, as_json)
    if quarantine is not None:
        from pyarrow import csv

        from cloud_core.lake.table import Table

        columns = ["structure_id", "reason", "message"]
        csv.write_csv(Table.open(table, version=version).quarantine(columns), quarantine)
    elif not as_json and version is None:
        show_quarantine(table)


@app.command()
def replay(
    table: TableUri,
    reason: Annotated[list[str] | None, typer.Option(help="Reason code; default: all of them.")] = None,
    symprec: Annotated[
        float | None, typer.Option(help="Symmetry tolerance, Å; default: that of the first run.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Time limit of one structure, s.")] = 30.0,
    workers: LocalWorkers = None,
    as_json: AsJson = False,
) -> None:
    """Try the structures in quarantine again, after a fix or with other tolerances.

    Example: cloud replay runs/lake/structures --reason symmetry_failed --symprec 0.05
    """
    use_embedded_prefect()
    from flows.lake import ReplayConfig
    from flows.lake import replay as flow

    encoding = {"timeout_s": timeout_s} | ({"symprec": symprec} if symprec is not None else {})
    asked = {"table": table, "reasons": reason, "encoding": encoding} | local_cluster(workers)
    show(flow(ReplayConfig.model_validate(asked)), as_json)
    if not as_json:
        show_quarantine(table)


@app.command()
def compact(table: TableUri, as_json: AsJson = False) -> None:
    """Join small files; the rows stay.

    Example: cloud compact runs/lake/structures
    """
    use_embedded_prefect()
    from flows.lake import CompactConfig
    from flows.lake import compact as flow

    show(flow(CompactConfig(table=table)), as_json)


@app.command()
def vacuum(
    table: TableUri,
    retention_hours: Annotated[float, typer.Option(help="Files that a younger version uses stay.")] = 168.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove files of old versions, but of none that a run or a model names.

    Example: cloud vacuum runs/lake/structures --dry-run
    """
    use_embedded_prefect()
    from flows.lake import VacuumConfig
    from flows.lake import vacuum as flow

    show(flow(VacuumConfig(table=table, retention_hours=retention_hours, dry_run=dry_run)), as_json)


@app.command()
def migrate(table: TableUri, as_json: AsJson = False) -> None:
    """Bring a table that an earlier version wrote to the columns of this one; rows and past versions stay.

    Example: cloud migrate runs/lake/structures
    """
    from cloud_core.lake import maintenance
    from cloud_core.lake.table import Table

    before, after = maintenance.migrate(Table.open(table))
    show({"table": table, "schema_before": before, "schema": after}, as_json)


@app.command()
def sync(
    name: Annotated[str, typer.Argument(help="Name of a sync: deployments/configs/sync-NAME.yaml.")],
    as_json: AsJson = False,
) -> None:
    """Bring a table up to its database: new and changed structures encoded, withdrawn ones marked.

    Example: cloud sync demo
    """
    use_embedded_prefect()
    from flows.sync import named
    from flows.sync import sync as flow

    show(flow(named(name)), as_json)


# Flows with a command of their own whose one argument is a configuration; the others are for `cloud run`.
COMMANDS = {
    "pretrain": "Pretrain an encoder by masked-language modelling, under torchrun.",
    "finetune": "Finetune a property model, shown beside its baselines.",
    "screen": "Screen candidates with a trained model.",
    "pipeline": "Run the whole chain: encode, pretrain, finetune, screen, Debye, registry.",
}
FLOWS = (
    *COMMANDS,
    "encode",
    "debye",
    "benchmark",
    "scaling",
    "phonon_labels",
    "sync",
    "replay",
    "compact",
    "vacuum",
)
_MODULES = {"replay": "lake", "compact": "lake", "vacuum": "lake"}


def run_flow(name: str, config: Path, as_json: bool) -> None:
    """Run the flow of a name with the configuration in a YAML file, and print its result."""
    use_embedded_prefect()
    from importlib import import_module
    from typing import get_type_hints

    from cloud_core.config import load_config

    flow = getattr(import_module(f"flows.{_MODULES.get(name, name)}"), name)
    result = flow(load_config(config, get_type_hints(flow.fn)["config"]))
    if as_json or not hasattr(result, "summary"):
        show(result, as_json)
    else:
        print(result.summary())


@app.command()
def run(
    flow: Annotated[str, typer.Argument(metavar="NAME", help=f"Out of: {', '.join(FLOWS)}.")],
    config: ConfigFile,
    as_json: AsJson = False,
) -> None:
    """Run any flow with a configuration.

    Example: cloud run benchmark --config deployments/configs/finetune-matbench.yaml
    """
    if flow not in FLOWS:
        raise CloudError(f"no flow named {flow!r}; there are: {', '.join(FLOWS)}")
    run_flow(flow, config, as_json)


@app.command()
def schema(
    flow: Annotated[str, typer.Argument(metavar="NAME", help=f"Of a flow, out of: {', '.join(FLOWS)}.")],
    as_json: AsJson = False,
) -> None:
    """List the keys of a flow's configuration: type, default, meaning. With --json, its JSON schema.

    Example: cloud schema finetune
    """
    if flow not in FLOWS:
        raise CloudError(f"no flow named {flow!r}; there are: {', '.join(FLOWS)}")
    from importlib import import_module
    from typing import get_type_hints

    from flows.cli.keys import keys_of

    config = get_type_hints(getattr(import_module(f"flows.{_MODULES.get(flow, flow)}"), flow).fn)["config"]
    if as_json:
        print(json.dumps(config.model_json_schema()))
        return
    for key, kind, default, meaning in keys_of(config.model_json_schema()):
        print(f"{key:<34} {kind:<22} {default:<18} {meaning}".rstrip())


def _add(name: str, help: str) -> None:
    def command(config: ConfigFile, as_json: AsJson = False) -> None:
        run_flow(name, config, as_json)

    example = f"Example: cloud {name} --config deployments/configs/{name}.yaml"
    app.command(name, help=f"{help}\n\n{example}")(command)


for _name, _help in COMMANDS.items():
    _add(_name, _help)


@app.command()
def debye(
    model: Annotated[str | None, typer.Argument(help="Model folder or models:/ address, for curves.")] = None,
    files: Annotated[list[str] | None, typer.Argument(help="Structure files, or SCOPE strings.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file: train a Debye model.")] = None,
    temperatures: Annotated[str, typer.Option(help="Of the curves, K: first:last:step.")] = "0:1000:10",
    to: Annotated[Path, typer.Option(help="Folder for the curves and their plots.")] = Path("runs/debye"),
    as_json: AsJson = False,
) -> None:
    """Heat capacity and energies over temperature: train a Debye model, or draw curves with one.

    Examples: cloud debye --config deployments/configs/debye.yaml

    cloud debye models:/debye@champion NaCl.cif --temperatures 0:1000:10
    """
    if (config is None) == (model is None):
        raise CloudError("give --config FILE to train, or MODEL and FILE… for the curves of crystals")
    if config is not None:
        use_embedded_prefect()
        from flows.debye import DebyeConfig
        from flows.debye import debye as flow

        show(flow(DebyeConfig.from_yaml(config)), as_json)
        return
    if not files:
        raise CloudError(f"{model}: name the structure files to draw curves of")
    from flows.cli.curves import sweep

    curves = sweep(str(model), files, temperatures, to)
    show(curves, as_json)
    if any(curve.error is not None for curve in curves):
        raise typer.Exit(1)


@app.command()
def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Structure files, folders, archives, tables (CSV, Parquet, or of `cloud encode`), or SCOPE "
            "strings in quotes."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of the package, a model folder or its URL, models:/NAME@champion, runs:/ID/PATH or "
            "hf:OWNER/NAME; a folder, models:/ and runs:/ may stand first, without --model. Default: all "
            "of the package."
        ),
    ] = None,
    as_json: AsJson = False,
    id: Annotated[str | None, typer.Option(help="Of tables: the column with the ids.")] = None,
    structure: Annotated[str | None, typer.Option(help="Of tables: the column with the structures.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="Of tables: the column with SCOPE strings in the model's form.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    to: Annotated[Path | None, typer.Option(help="Write a .csv or .parquet file instead.")] = None,
) -> None:
    """Predict structures with a trained model, or with all that come with the package.

    Example: cloud predict NaCl.cif
    """
    from cloud_core.inference.inputs import TableOf
    from cloud_core.inference.predictor import Predictor, predict_together
    from cloud_core.models.folder import CONFIG, shipped_models
    from flows.cli.predictions import scope_column, write_predictions

    if model is None and (
        files[0].startswith(("models:/", "runs:/", "hf:")) or Path(files[0], CONFIG).is_file()
    ):
        model, *files = files
    if not files:
        raise CloudError("no structures to predict: name files after the model")
    models = shipped_models() if model is None else [model]
    for file in files:
        if "|" not in file and not Path(file).exists():
            raise CloudError(f"{file}: no such file or folder")
    predictors = {name: Predictor.load(name) for name in models}
    inputs: list[Any] = [file if "|" in file else Path(file) for file in files]
    if scope is not None:
        files, inputs = scope_column(files, scope, id)
    elif id or structure:
        named = {"id": id, "structure": structure}
        columns = {key: column for key, column in named.items() if column is not None}
        inputs = [TableOf(file, columns) for file in files]
    rows = predict_together(predictors, inputs)
    units = {name: unit for predictor in predictors.values() for name, unit in predictor.units.items()}
    shape: Literal["json", "csv", "text"] = "json" if as_json else "csv" if as_csv else "text"
    if not write_predictions(rows, files, units, to or shape):
        raise typer.Exit(1)


@app.command()
def embed(
    table: TableUri,
    to: Annotated[Path, typer.Option(help="Parquet file of the vectors; rows that it has already stay.")],
    model: Annotated[str, typer.Option(help="Whose vectors: one that reads sites.")] = "formation_energy",
    as_json: AsJson = False,
) -> None:
    """Write a vector for each structure of a table, for `cloud similar`.

    Example: cloud embed runs/lake/structures --to runs/vectors.parquet
    """
    from cloud_core.inference.embedding import embed as run

    found = run(table, to, model)
    show({"file": str(to), "rows": found.rows, "new": found.new}, as_json)


@app.command()
def similar(
    files: Annotated[
        list[str], typer.Argument(help="Structure files or SCOPE strings, then the vectors' file.")
    ],
    count: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the structures of a table that are nearest to others, by the vectors of `cloud embed`.

    Example: cloud similar NaCl.cif runs/vectors.parquet -n 5
    """
    from cloud_core.inference.embedding import Neighbour
    from cloud_core.inference.embedding import similar as run

    *asked, vectors = files
    if not asked:
        raise CloudError("name structures, then the file that `cloud embed` wrote")
    for file in asked:
        if "|" not in file:
            check_file(Path(file))
    answers = list(run([file if "|" in file else Path(file) for file in asked], Path(vectors), count))
    near = [answer._asdict() for answer in answers if isinstance(answer, Neighbour)]
    if as_json:
        print(json.dumps(near))
    for answer in answers:
        if not isinstance(answer, Neighbour):
            print(f"cloud: {answer[0]}: {answer[1]}", file=sys.stderr)
        elif not as_json:
            print(
                f"{answer.rank:>3}  {answer.distance:<8.3f} {answer.id:<24} {answer.formula:<14} "
                f"{answer.space_group:>3}  {answer.scope}"
            )
    if not near:
        raise typer.Exit(1)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models of the package, and those in MLflow's registry with their alias and gate.

    Example: cloud models
    """
    from cloud_core.models.folder import SHIPPED, read_config, shipped_models
    from tasks.registry import registered_models

    rows = []
    for name in shipped_models():
        described = read_config(SHIPPED / name)
        targets = described.get("members", [described])[0].get("targets", [])
        told = ", ".join(f"{target['name']} ({target['unit'] or '1'})" for target in targets)
        rows.append({"model": name, "alias": "of the package", "date": "", "gate": f"{told}; docs/models.md"})
    rows += registered_models()
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print("  ".join(filter(None, (row["model"], row["alias"], row["date"], row["gate"]))))


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="Of the registered model.")],
    version: Annotated[str, typer.Argument(help="Its version that is to serve.")],
    why: Annotated[str, typer.Option(help="Reason, kept as a tag.")],
) -> None:
    """Make a version the champion of its model.

    Example: cloud promote formation_energy 3 --why "checked on our own compounds"
    """
    from tasks.registry import set_champion

    set_champion(name, version, why)
    print(f"{name}: version {version} serves")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Of the registered model.")],
    why: Annotated[str, typer.Option(help="Reason, kept as a tag.")],
) -> None:
    """Make the champion before this one serve again.

    Example: cloud rollback formation_energy --why "wrong on oxides"
    """
    from tasks.registry import roll_back

    served, serves = roll_back(name, why)
    print(f"{name}: version {serves} serves again, in place of {served}")


@app.command("export")
def export_model(
    model: Annotated[str, typer.Argument(help="Model folder of an encoder, or its models:/ address.")],
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    as_json: AsJson = False,
) -> None:
    """Write an encoder as a folder that transformers' BertForMaskedLM loads.

    Example: cloud export models:/encoder@champion encoder-for-transformers
    """
    from cloud_core.models.hugging_face import to_hugging_face
    from cloud_core.scope.tokenizer import Tokenizer
    from tasks.registry import resolve

    written = to_hugging_face(resolve(model), folder, Tokenizer().words)
    show({"folder": str(written)}, as_json)


@app.command("import")
def import_model(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder that transformers wrote (BertForMaskedLM), or hf:OWNER/NAME; its `ckpt`."
        ),
    ],
    model: Annotated[Path, typer.Argument(help="Model folder to write.")],
    words: Annotated[int | None, typer.Option(help="Keep the first rows of the vocabulary only.")] = None,
    form: Annotated[str | None, typer.Option(help="Of its strings, where it does not say which.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take a BERT that transformers wrote, the published CLOUD checkpoint for one, as an encoder.

    Examples: cloud import published-cloud runs/models/published --words 564 --form official

    cloud import hf:ChangwenXu/CLOUD runs/models/published --words 564 --form official
    """
    from cloud_core.inference.addresses import hugging_face_folder
    from cloud_core.models.checkpoint import save_encoder
    from cloud_core.models.hugging_face import from_hugging_face
    from cloud_core.scope.tokenizer import Tokenizer

    if form is not None:
        check_form(form)
    source = Path(folder)
    if folder.startswith("hf:"):
        source = hugging_face_folder(folder.removeprefix("hf:"), (".json", ".safetensors", ".bin", ".txt"))
    if not (source / "config.json").is_file() and (source / "ckpt").is_dir():
        source /= "ckpt"  # as the published weights lie
    imported, metadata = from_hugging_face(source, Tokenizer().words, words)
    metadata["form"] = form or metadata.get("form")
    written = save_encoder(model, imported, metadata)
    show({"folder": str(written), "form": metadata["form"]}, as_json)


@app.command()
def demo(
    runs: Annotated[Path, typer.Option(envvar="CLOUD_RUNS", help="Where everything is written.")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """Run the whole chain on real structures that come with the project, in a few minutes on two cores.

    Example: cloud demo
    """
    os.environ["CLOUD_RUNS"] = str(runs.absolute())
    use_embedded_prefect()
    from flows.cli.demo import demo as run_demo

    run_demo(as_json=as_json)


@app.command()
def ui(
    runs: Annotated[
        Path, typer.Option(envvar="CLOUD_RUNS", help="The folder that the runs were written to.")
    ] = Path("runs"),
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
) -> None:
    """Serve the Prefect and MLflow pages on what the embedded runs left, on this machine only.

    Example: cloud ui
    """
    os.environ["CLOUD_RUNS"] = str(runs.absolute())
    from flows.cli.ui import serve

    serve(embedded_prefect_home(), prefect_port, mlflow_port)


def main() -> None:
    # OpenMP threads wait a little for each other and then sleep. Spinning for as long as another process has
    # their core, the demo took six minutes where one of two cores was busy; so it takes two.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # no child takes a module from the folder that somebody stands in
    os.environ["PYTHONSAFEPATH"] = "1"
    # so that what was started, a temporary Prefect server for one, is stopped as at any other end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would cut through ours
    fail_in_one_line(app)
