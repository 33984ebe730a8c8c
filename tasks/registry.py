"""The MLflow model registry: `challenger` on registering, `champion` through the gate, loading by alias."""

import getpass
import importlib.metadata
import shutil
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import cloud_core
from cloud_core.errors import CloudError
from cloud_core.evaluation.metrics.gate import GateDecision
from cloud_core.evaluation.promotion import Champion
from cloud_core.models.folder import CheckpointError, model_folder, shipped_models
from tasks.tracking import mlflow_client, tracking_uri

CHALLENGER = "challenger"
CHAMPION = "champion"

# What a served model imports; pinned to the versions it was trained with.
SERVING_REQUIREMENTS = (
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "pydantic",
    "pymatgen",
    "spglib",
    "moyopy",
    "gemmi",
    "orjson",
    "pebble",
    "zstandard",
    "PyYAML",
    "scipy",
    "scikit-learn",
    "mlflow",
)


PromoteMode = Literal["auto", "force", "never"]


class Registered(NamedTuple):
    """A version in the registry, whether it serves, and why or why not."""

    version: str
    promoted: bool
    message: str


class RegistryError(CloudError):
    """A model that cannot be registered or found; names the model and the remedy."""


def register(
    model_folder: str | Path,
    name: str,
    run_id: str,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> str:
    """Log a model folder under the run that trained it and register it as the `challenger` of `name`.

    The code travels with the model: `mlflow models serve --env-manager local` needs no index that has ours.

    Returns:
        The new version, as MLflow counts it ("1", "2", …).

    Raises:
        RegistryError: the folder holds no model.
    """
    folder = Path(model_folder)
    if not (folder / "config.json").is_file():
        raise RegistryError(f"{folder}: not a model folder (no config.json); train a model first")
    mlflow.set_tracking_uri(tracking_uri())
    requirements = [f"{package}=={_public_version(package)}" for package in SERVING_REQUIREMENTS]
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings(), TemporaryDirectory() as scratch:
        code = Path(scratch, "cloud_core")
        shutil.copytree(cloud_core.__path__[0], code, ignore=shutil.ignore_patterns("shipped", "__pycache__"))
        # an example would load and run the model once more; the signature says what it takes
        warnings.filterwarnings("ignore", message=".*An input example was not provided.*")
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={"model": str(folder)},
            code_paths=[str(code)],
            pip_requirements=requirements,
            signature=ModelSignature(inputs=Schema([ColSpec(DataType.string, "structure")])),
            metadata={"run_id": run_id},
        )
    client = mlflow_client()
    _ensure_registered(name)
    version = client.create_model_version(
        name, logged.model_uri, run_id=run_id, model_id=logged.model_id, tags=_texts(tags or {})
    )
    for key, value in (metrics or {}).items():
        client.set_model_version_tag(name, version.version, f"metric.{key}", f"{value:.6g}")
    client.set_registered_model_alias(name, CHALLENGER, version.version)
    return str(version.version)


def _public_version(package: str) -> str:
    """Without the local part: `2.13.0+cpu` is on no index."""
    return importlib.metadata.version(package).split("+")[0]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _ensure_registered(name: str) -> None:
    try:
        mlflow_client().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def champion(name: str) -> Champion | None:
    """The version of `name` that serves now."""
    version = _aliases(name).get(CHAMPION)
    return None if version is None else Champion(version, resolve(f"models:/{name}/{version}"))


def enter(
    model_folder: str | Path,
    name: str,
    run_id: str,
    metrics: Mapping[str, float],
    decision: GateDecision,
    compared_with: Champion | None = None,
    mode: PromoteMode = "auto",
) -> Registered:
    """Register a model, and promote it where the gate passed or `mode` says so; the reason is a tag.

    compared_with: the champion of when the gate compared; should another one serve by now, that one stays.
    """
    version = register(model_folder, name, run_id, metrics)
    message, passed = decision.message, decision.passed
    if mode != "auto":
        passed = mode == "force"
        message = f"promote: {mode} ({message})"
    serving, compared = _aliases(name).get(CHAMPION), compared_with and compared_with.version
    if passed and mode == "auto" and serving != compared:
        passed = False
        message = (
            f"is not promoted: compared with version {compared or 'none'}, and version {serving or 'none'} "
            f"serves by now; run again ({message})"
        )
    mlflow_client().set_model_version_tag(name, version, "gate", message)
    if passed:
        set_champion(name, version, message)
    return Registered(version, passed, message)


def set_champion(name: str, version: str, why: str) -> None:
    """Make a version the champion, with who, when, why and the one before as its tags.

    Raises:
        RegistryError: there is no such version.
    """
    client = mlflow_client()
    facts = {f"promoted_{key}": value for key, value in _who_when_why(why).items()}
    before = _aliases(name).get(CHAMPION)
    if before is not None and before != version:
        facts["champion_before"] = before
    try:
        for key, value in facts.items():
            client.set_model_version_tag(name, version, key, value)
    except MlflowException as error:
        raise RegistryError(f"{name}: no version {version} in the registry; see `cloud models`") from error
    client.set_registered_model_alias(name, CHAMPION, version)


def roll_back(name: str, why: str) -> tuple[str, str]:
    """Make the champion before this one serve again; (the version that served, the one that serves now).

    Raises:
        RegistryError: no champion, or none before it.
    """
    serving = _aliases(name).get(CHAMPION)
    if serving is None:
        raise RegistryError(f"{name}: has no champion; see `cloud models`")
    before = mlflow_client().get_model_version(name, serving).tags.get("champion_before")
    if before is None:
        raise RegistryError(f"{name}: version {serving} is the first champion; there is none before it")
    client = mlflow_client()  # the tags of its own promotion stay, so that one can go back further
    for key, value in _who_when_why(why).items():
        client.set_model_version_tag(name, before, f"restored_{key}", value)
    client.set_registered_model_alias(name, CHAMPION, before)
    return serving, before


def _who_when_why(why: str) -> dict[str, str]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"by": getpass.getuser(), "at": now, "because": why}


def _aliases(name: str) -> dict[str, str]:
    """Alias -> version of a registered model; empty where there is none of that name."""
    found = mlflow_client().search_registered_models(f"name = '{name}'")
    return {alias: str(version) for model in found for alias, version in model.aliases.items()}


def registered_models() -> list[dict[str, str]]:
    """A row for each version with an alias: address, aliases, date and gate."""
    client = mlflow_client()
    rows = []
    models = client.search_registered_models()
    while models.token:  # MLflow gives a hundred at a time
        page = client.search_registered_models(page_token=models.token)
        models.token = page.token
        models.extend(page)
    for model in models:
        for number in sorted(set(map(str, model.aliases.values())), key=int):
            version = client.get_model_version(model.name, number)
            created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
            aliases = sorted(alias for alias, of in model.aliases.items() if str(of) == number)
            rows.append(
                {
                    "model": f"models:/{model.name}/{number}",
                    "alias": ", ".join(aliases),
                    "date": created.date().isoformat(),
                    "gate": version.tags.get("gate", ""),
                }
            )
    return rows


def resolve(uri: str) -> Path:
    """The local folder of `models:/name@alias`, `models:/name/version`, `runs:/id/path`, of a path, or of a
    model that comes with the package by its name.

    Raises:
        RegistryError: there is no such model.
    """
    if not uri.startswith(("models:/", "runs:/")):
        try:
            return model_folder(uri)
        except CheckpointError as error:
            raise RegistryError(
                f"{uri}: not a model folder (no config.json), not a models:/ or runs:/ address, and none of "
                f"the models of the package: {', '.join(shipped_models())}"
            ) from error
    mlflow_client()  # makes a store that is not there yet
    mlflow.set_tracking_uri(tracking_uri())  # a look-up by alias takes no address of its own
    try:
        downloaded = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except MlflowException as error:
        raise RegistryError(
            f"{uri}: not in the registry of {_without_secrets(tracking_uri())} ({error.message})"
        ) from error
    if (downloaded / "config.json").is_file():
        return downloaded
    if not (downloaded / "MLmodel").is_file():
        raise RegistryError(f"{uri}: neither a model folder nor a logged model; name the model's own path")
    artifacts = Model.load(str(downloaded)).flavors["python_function"]["artifacts"]
    return downloaded / artifacts["model"]["path"]


def _without_secrets(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
