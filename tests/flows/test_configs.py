"""Configurations: strict, from YAML, each mistake in one line that names the file, the key and the remedy."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import Field

from cloud_core.config import DEFAULT_TABLE, ConfigError, ConfigSection, FlowConfig, TableUri
from flows.cli.commands import local_cluster
from flows.encode import EncodeConfig


class Window(ConfigSection):
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Rate:
    peak: float = 1.0


class Example(FlowConfig):
    epochs: int = Field(ge=1)
    table: TableUri = DEFAULT_TABLE
    windows: dict[str, Window] = Field(default={})
    rates: tuple[Rate, ...] | None = None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [", "not valid YAML"),
        ("- 1", "expected keys and values at the top level, found list"),
        ("epochs: 0", "'epochs': Input should be greater than or equal to 1, got 0"),
        ("{}", "'epochs' is missing"),
        (
            "epochs: 1\nepoch: 2",
            "'epoch' is not a key of Example (keys: config_version, epochs, table, windows, rates)",
        ),
        ("windows: {gap: {min: 1}}", "'windows.gap.min' is not a key of Window (keys: low, high)"),
        ("rates: [{top: 1}]", "'rates.0.top' is not a key of Rate (keys: peak)"),
        ("epochs: 1\ntable: ${NOT_SET_ANYWHERE}", "the environment variable NOT_SET_ANYWHERE is not set"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Example.from_yaml(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read the configuration"):
        Example.from_yaml(tmp_path / "nowhere.yaml")


def test_the_table_follows_the_environment_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUD_TABLE", raising=False)
    assert Example(epochs=1).table == "runs/lake/structures"
    monkeypatch.setenv("CLOUD_TABLE", "s3://lake/structures")
    assert Example(epochs=1).table == "s3://lake/structures"
    assert Example(epochs=1, table="elsewhere").table == "elsewhere"


def test_a_scheduler_of_the_environment_is_used_unless_workers_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUD_DASK_ADDRESS", "tcp://scheduler:8786")
    asked = {"source": "cifs", "table": "t"}
    cluster = EncodeConfig.model_validate(asked | local_cluster(None)).cluster
    assert (cluster.kind, cluster.address) == ("address", "tcp://scheduler:8786")
    cluster = EncodeConfig.model_validate(asked | local_cluster(3)).cluster
    assert (cluster.kind, cluster.workers) == ("local", 3)
