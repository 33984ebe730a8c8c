"""What the flows' configurations share: strict models, loaded from YAML."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.sources.validation import explain

if TYPE_CHECKING:
    from cloud_core.models.encoder import EncoderConfig


class ConfigError(ValueError):
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


def knows_every_word(encoder: "EncoderConfig") -> "EncoderConfig":
    """An encoder's geometry whose word embedding has a row for each word of SCOPE.

    Raises:
        ValueError: it has fewer.
    """
    words = Tokenizer().vocabulary_size
    if encoder.vocabulary_size < words:
        raise ValueError(f"vocabulary_size {encoder.vocabulary_size} is less than SCOPE's {words} words")
    return encoder


class FlowConfig(BaseModel):
    """Base of every flow's configuration: an unknown key is an error, and values do not change in a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            ConfigError: the file is missing, is not YAML, or a key is missing, unknown or of the wrong type.
        """
        return load_config(path, cls)


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


def checked(model: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """A configuration of these values. Raises ConfigError, which says where they stand and what is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from error


def run_from_shell(flow: Callable[[Config], object], model: type[Config]) -> None:
    """`python -m flows.NAME --config FILE`: what each flow's file does when it is run."""
    import typer
    from pydantic_core import to_json

    from flows.shell import fail_in_one_line

    def main(config: Annotated[Path, typer.Option(help=f"YAML file of a {model.__name__}")]) -> None:
        print(to_json(flow(load_config(config, model)), indent=2).decode())

    fail_in_one_line(lambda: typer.run(main))
