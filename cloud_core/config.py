"""What configurations share: strict models, loaded from YAML, with errors of one line."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, get_args, get_type_hints

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from cloud_core.errors import CloudError


class ConfigError(CloudError):
    """A configuration that cannot be used; one line that names the file, the key and the remedy."""


def expand_variables(text: str) -> str:
    """`${NAME}` and `${NAME:-default}` from the environment of the process that runs the flow.

    Raises:
        ValueError: a variable is not set and has no default.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ValueError(f"the environment variable {match['name']} is not set")
        return found

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)


TableUri = Annotated[str, AfterValidator(expand_variables)]
"""A table's address. The default lets one deployment write to a laptop's folder and to a cluster's store."""

DEFAULT_TABLE = "${CLOUD_TABLE:-runs/lake/structures}"


# Raised when keys move; `moved` and the flows' validators understand the earlier ones.
CONFIG_VERSION = 2


class ConfigSection(BaseModel):
    """A part of a configuration: an unknown key is an error, and values do not change in a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class FlowConfig(ConfigSection):
    """Base of every flow's configuration, which states the version of its keys."""

    config_version: int = Field(
        default=CONFIG_VERSION, ge=1, description="of the keys; earlier ones are understood"
    )

    @field_validator("config_version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version > CONFIG_VERSION:
            raise ValueError(f"newer than this program's {CONFIG_VERSION}: upgrade the program")
        return version

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            ConfigError: the file is missing, is not YAML, or a key is missing, unknown or of the wrong type.
        """
        return load_config(path, cls)


class TrainingConfig(FlowConfig):
    """Base of those that train a model."""

    registered: bool = Field(True, description="enter the model into MLflow's registry, as challenger")
    register_as: str | None = Field(None, description="its name there; default: that of the run")
    promote: Literal["auto", "force", "never"] = Field(
        "auto",
        description="to champion: where it beats every baseline and the champion beyond chance; in any case, "
        "which is tagged; or never",
    )


Config = TypeVar("Config", bound=BaseModel)


def load_config(path: str | Path, model: type[Config]) -> Config:
    """`path` (YAML) as `model`; see `FlowConfig.from_yaml`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the configuration ({error.strerror}); check the path"
        ) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values at the top level, found {type(values).__name__}")
    return checked(model, values, str(path))


def moved(values: Any, keys: Collection[str], into: str) -> Any:
    """A configuration of an earlier version: keys that are in the section `into` by now are put there."""
    if not isinstance(values, Mapping) or not any(key in values for key in keys):
        return values
    section = values.get(into, {})
    if is_dataclass(section) and not isinstance(section, type):
        section = {field.name: getattr(section, field.name) for field in fields(section)}
    section = dict(section) | {key: values[key] for key in keys if key in values}
    return {key: value for key, value in values.items() if key not in keys} | {into: section}


def checked(model: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """A configuration of these values. Raises ConfigError, which says where they are and what is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """pydantic's report as one line: each wrong key, what is wrong, and the keys there are."""
    places = [(_place(model, item["loc"]), item) for item in error.errors()]
    kept = _likeliest(places)
    problems = []
    for place, item in places:
        if place.branch is not None and place.branch not in kept:
            continue
        key = ".".join(place.key) or model.__name__
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            keys = ", ".join(_fields(place.owner))
            problems.append(f"'{key}' is not a key of {place.owner.__name__} (keys: {keys})")
        elif item["type"] == "missing":
            problems.append(f"'{key}' is missing")
        else:
            problems.append(f"'{key}': {item['msg']}, got {item.get('input')!r}")
    return "; ".join(problems)


class _Place(NamedTuple):
    """Where in a configuration something is wrong.

    owner: the class, the model or one inside it, that the key was given to. branch: where one of several
    classes may stand, the key of that place and the class that was tried.
    """

    key: tuple[str, ...]
    owner: type
    branch: tuple[tuple[str, ...], type] | None


def _place(model: type, location: tuple[int | str, ...]) -> _Place:
    key: list[str] = []
    owner = inner = model
    choice: dict[str, type] = {}
    branch = None
    for part in location:
        if part in choice:  # pydantic names the class that it tried, between the key and what is wrong in it
            inner = choice[str(part)]
            branch = (tuple(key), inner)
            continue
        key.append(str(part))
        owner = inner
        if part in (known := _fields(owner)):
            classes = list(_classes(known[part]))
            inner = classes[0] if classes else owner
            choice = {each.__name__: each for each in classes} if len(classes) > 1 else {}
    return _Place(tuple(key), owner, branch)


def _likeliest(places: Sequence[tuple[_Place, Any]]) -> set[tuple[tuple[str, ...], type]]:
    """For each place where one of several classes may stand, the one against which least was said."""
    said = Counter(place.branch for place, _ in places if place.branch is not None)
    least: dict[tuple[str, ...], tuple[tuple[str, ...], type]] = {}
    for branch, count in said.items():
        if branch[0] not in least or count < said[least[branch[0]]]:
            least[branch[0]] = branch
    return set(least.values())


def _fields(model: type) -> dict[Any, Any]:
    """Name -> type of a pydantic model or a dataclass."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    return get_type_hints(model)


def _classes(annotation: Any) -> Iterator[type]:
    """Models and dataclasses that a type is made of: those of `dict[str, Window] | None` are Window."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)
