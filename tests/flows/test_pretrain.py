"""The pretraining flow on a real table, a real Prefect server and a real MLflow store."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from prefect.client.orchestration import get_client
from prefect.states import Cancelling
from transformers import AutoTokenizer, BertForMaskedLM, BertTokenizerFast
from typer.testing import CliRunner

from cloud_core.config import ConfigError
from cloud_core.lake.schemas import STRUCTURES
from cloud_core.lake.table import Table
from cloud_core.models.checkpoint import load_encoder
from cloud_core.models.folder import WEIGHTS, CheckpointError, weights_digest
from cloud_core.models.geometry import EncoderConfig, SitesConfig
from cloud_core.models.hugging_face import to_hugging_face
from cloud_core.scope import encode
from cloud_core.scope.tokenizer import Tokenizer
from cloud_core.training.masking import Masking
from flows.cli import app
from flows.pretrain import PretrainConfig, PretrainResult, identity, pretrain
from flows.scaling import ScalingConfig, scaling
from tasks.tracking import metric_history, mlflow_client
from tasks.training import TrainingError, run_of
from tests.demo_cut import demo_strings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TINY: dict[str, Any] = {"hidden_size": 32, "layers": 1, "heads": 2, "feed_forward": 64}


def filled_table(uri: str, texts: list[str]) -> Table:
    table = Table.create(uri)
    columns: dict[str, list[Any]] = {
        "structure_id": [f"cloud:{i}" for i in range(len(texts))],
        "source": ["cloud"] * len(texts),
        "status": ["encoded"] * len(texts),
        "canonical": list(texts),
        "content_hash": [str(i) for i in range(len(texts))],
        "fingerprint": ["f"] * len(texts),
        "encoded_at": [datetime.now(UTC)] * len(texts),
    }
    assert table.append_chunk(
        pa.table(columns, schema=pa.schema([STRUCTURES.field(n) for n in columns])), "k"
    )
    return table


@pytest.fixture(scope="module")
def finished(
    prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PretrainConfig, PretrainResult, Path]:
    """One run of the flow with two processes: its config, its result, the runs folder."""
    folder = tmp_path_factory.mktemp("flow")
    table = filled_table(str(folder / "structures"), demo_strings(300))
    config = PretrainConfig(
        name="tiny", table=table.uri, column="canonical",
        encoder=EncoderConfig(**TINY), epochs=3, batch_size=64,
        validation_fraction=0.1, log_every=2, validate_every=5, launch={"processes": 2, "threads": 1},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUD_RUNS", str(folder / "runs"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return config, pretrain(config), folder / "runs"


@pytest.fixture
def same_runs(finished: tuple[PretrainConfig, PretrainResult, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOUD_RUNS", str(finished[2]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return finished[2]


def test_everything_is_in_mlflow_and_leads_back_to_the_table(
    finished: tuple[PretrainConfig, PretrainResult, Path], same_runs: Path
) -> None:
    config, result, _ = finished
    client = mlflow_client()
    stored = client.get_run(result.run_id)
    assert stored.info.status == "FINISHED"
    assert result.snapshot is not None and result.snapshot.n_rows == 300
    assert stored.data.tags["input.structures.uri"] == config.table
    assert stored.data.tags["input.structures.version"] == str(result.snapshot.version)
    assert stored.data.params["training.encoder.hidden_size"] == "32"
    steps = int(stored.data.params["total_steps"])
    history = metric_history(run_of(result.run_id), ["train/loss", "validation/perplexity"])
    assert [step for step, _ in history["train/loss"]] == [*range(2, steps, 2), steps]
    assert [step for step, _ in history["validation/perplexity"]] == [*range(5, steps, 5), steps]
    for field in ("generator", "wyckoff", "element", "fraction"):
        assert f"validation/masked_accuracy_{field}" in stored.data.metrics
    for rate in ("tokens_per_second", "strings_per_second", "model_flop_utilisation", "memory_gb"):
        assert stored.data.metrics[f"system/{rate}"] > 0
    names = {artifact.path for artifact in client.list_artifacts(result.run_id)}
    assert {"learning_curve.png", "config.yaml", "result.json"} <= names


def test_the_model_is_a_folder_that_names_its_snapshot_and_loads_in_transformers(
    finished: tuple[PretrainConfig, PretrainResult, Path], tmp_path: Path
) -> None:
    config, result, _ = finished
    _, metadata = load_encoder(result.model_folder)
    assert result.snapshot is not None
    assert metadata["snapshot"] == {"uri": config.table, "version": result.snapshot.version}
    assert (metadata["form"], metadata["run_id"]) == ("canonical", result.run_id)
    to_hugging_face(result.model_folder, tmp_path / "export", Tokenizer().words)
    _, report = BertForMaskedLM.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_export_and_import_from_the_shell(
    finished: tuple[PretrainConfig, PretrainResult, Path], tmp_path: Path
) -> None:
    """Out as a BertForMaskedLM and in again: the same weights, which still say where they came from."""
    _, result, _ = finished
    exported, back = tmp_path / "export", tmp_path / "back"
    shell = CliRunner()
    shown = shell.invoke(app, ["export", result.model_folder, str(exported), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["folder"] == str(exported)
    vocabulary = json.loads((exported / "config.json").read_text())["scope_vocabulary"]
    assert (vocabulary["words"], vocabulary["rows"], vocabulary["form"]) == (564, 564, "canonical")
    rock_salt = "1 6 a O D D a D O D b O O O c O O O d O O O e O O O 0 | 4a 4b | Cl 0.5 Na 0.5"
    for kind in (AutoTokenizer, BertTokenizerFast):
        assert kind.from_pretrained(exported)(rock_salt)["input_ids"] == Tokenizer().encode(rock_salt)
    BertForMaskedLM.from_pretrained(exported).save_pretrained(exported)  # as transformers leaves it
    shown = shell.invoke(app, ["import", str(exported), str(back), "--words", "564", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == {"folder": str(back), "form": "canonical"}
    named = shell.invoke(app, ["import", str(exported), str(tmp_path / "named"), "--form", "official"])
    assert named.exit_code == 0 and "official" in named.stdout
    (ours, about), (theirs, metadata) = load_encoder(result.model_folder), load_encoder(back)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name
    assert (metadata["parent"], metadata["snapshot"]) == ("export", about["snapshot"])
    # as the published weights lie in their repository
    shutil.copytree(exported, tmp_path / "published" / "ckpt")
    shown = shell.invoke(app, ["import", str(tmp_path / "published"), str(tmp_path / "again"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert weights_digest(tmp_path / "again") == weights_digest(back)


def test_the_same_again_trains_nothing(
    finished: tuple[PretrainConfig, PretrainResult, Path], same_runs: Path
) -> None:
    config, result, _ = finished
    log = next(same_runs.glob("checkpoints/tiny-*/torchrun.log"))
    written = log.stat().st_mtime_ns
    again = pretrain(config)
    assert again.model_folder == result.model_folder
    assert again.metrics == result.metrics
    assert log.stat().st_mtime_ns == written
    history = mlflow_client().get_metric_history(again.run_id, "train/loss")
    assert len(history) > 3  # the new MLflow run has the whole curve


def test_a_file_counts_by_what_it_holds(
    finished: tuple[PretrainConfig, PretrainResult, Path], tmp_path: Path
) -> None:
    """Another corpus below the same name is another run; the same one somewhere else is not."""
    encoder = Path(finished[1].model_folder)
    (tmp_path / "a.txt").write_text("1 O | 1a | H 1\n")
    (tmp_path / "b.txt").write_text("1 O | 1a | H 1\n")

    def name(**values: Any) -> str:
        return identity(PretrainConfig(steps=2, **values), None)

    (tmp_path / "model").mkdir()
    for part in ("config.json", WEIGHTS):
        (tmp_path / "model" / part).write_bytes((encoder / part).read_bytes())
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    assert name(texts=first) == name(texts=second) == name(texts=second, name="other")
    assert name(texts=first, start_from=encoder) == name(texts=first, start_from=tmp_path / "model")
    seen = {name(texts=first), name(texts=first, seed=1)}
    seen |= {name(texts=first, exclude=[second]), name(texts=first, start_from=encoder)}
    second.write_text("1 O | 1a | He 1\n")
    seen |= {name(texts=second), name(texts=first, exclude=[second])}
    assert len(seen) == 6
    third = tmp_path / "c.txt"
    third.write_text("\n".join([first.read_text().strip(), second.read_text().strip()]))
    assert name(texts=first, exclude=[second]) != name(texts=third)
    assert name(texts=first, exclude=[second, third]) == name(texts=first, exclude=[third, second])
    with pytest.raises(CheckpointError, match="give the folder of a trained model"):
        name(texts=first, start_from=tmp_path)


def test_held_out_strings_are_neither_trained_on_nor_validated_with(tmp_path: Path) -> None:
    from cloud_core.training.batches import Batches
    from cloud_core.training.corpus import split_corpus

    texts = demo_strings(200)
    (tmp_path / "all.txt").write_text("\n".join(["cloud", *texts]))
    (tmp_path / "out.txt").write_text("\n".join(texts[:50]))
    config = PretrainConfig(
        texts=tmp_path / "all.txt",
        column="canonical",
        exclude=(tmp_path / "out.txt",),
        steps=1,
        validation_fraction=0.2,
    )
    about = split_corpus(config, config.training.encoder, [], str(tmp_path))
    parts = [Batches.load(about[part]) for part in ("training", "validation")]
    held = set(Batches.distinct(texts[:50]).row_hashes().tolist())
    seen = {h for part in parts for h in part.row_hashes().tolist()}
    assert not held & seen
    assert seen == set(Batches.distinct(texts).row_hashes().tolist()) - held


def test_strings_of_another_form_than_named_are_refused(tmp_path: Path, project: Path) -> None:
    """Nothing is labelled as resolved that does not say what sits where, and nothing else as such."""
    from cloud_core.training.batches import CorpusError
    from cloud_core.training.corpus import split_corpus

    file, table = tmp_path / "texts.txt", tmp_path / "a.parquet"
    texts = demo_strings(40)
    file.write_text("\n".join(texts))
    pq.write_table(pa.table({"canonical": texts, "resolved": pa.nulls(40, pa.string())}), table)
    resolved = PretrainConfig(texts=file, steps=1)
    with pytest.raises(CorpusError, match=r"texts\.txt: '.*' is no resolved string; name the form"):
        split_corpus(resolved, resolved.training.encoder, [], str(tmp_path))
    with pytest.raises(CorpusError, match=r"no row has a resolved string; encode the structures with forms"):
        split_corpus(
            PretrainConfig(table=str(tmp_path), steps=1), SitesConfig("sites"), [str(table)], tmp_path
        )
    file.write_text(encode(project / "flows/demo_data/held_out.cif", forms=("resolved",)).resolved or "")
    canonical = PretrainConfig(texts=file, column="canonical", steps=1)
    with pytest.raises(CorpusError, match="is no canonical string"):
        split_corpus(canonical, canonical.training.encoder, [], str(tmp_path))


def test_a_table_made_anew_does_not_hand_back_the_model_of_the_old_one(
    finished: tuple[PretrainConfig, PretrainResult, Path], same_runs: Path
) -> None:
    config = finished[0]
    table = Path(str(config.table))
    table.rename(table.with_name("old"))
    try:
        filled_table(str(table), demo_strings(250))
        with pytest.raises(TrainingError, match=r"tiny-\w+: finished on other strings than the table holds"):
            pretrain(config)
    finally:
        shutil.rmtree(table)
        table.with_name("old").rename(table)


def test_other_forms_are_split_and_excluded_by_their_canonical_strings(tmp_path: Path) -> None:
    """Whatever its official strings, a crystal is on the side of its canonical one, once."""
    from cloud_core.training.batches import Batches, CorpusError
    from cloud_core.training.corpus import split_corpus

    texts = demo_strings(400)
    canonical, official = texts[:200], texts[200:]
    columns = {"canonical": [*canonical, *canonical[:50]], "official": [*official[:200], *canonical[:50]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (tmp_path / "out.txt").write_text("\n".join([*canonical[:5], *official[5:10]]))

    def parts(column: str) -> tuple[dict[str, Any], list[set[int]]]:
        config = PretrainConfig(
            table=str(tmp_path), column=column, exclude=(tmp_path / "out.txt",), steps=1,
            validation_fraction=0.3,
        )  # fmt: skip
        about = split_corpus(config, config.training.encoder, [str(tmp_path / "a.parquet")], str(tmp_path))
        loaded = [Batches.load(about[part]) for part in ("training", "validation")]
        return about, [set(part.row_hashes().tolist()) for part in loaded]

    def hashes(of: list[str]) -> list[int]:
        return [int(Batches.distinct([text]).row_hashes()[0]) for text in of]

    about, (training, held) = parts("official")
    assert about["excluded_strings"] == 10
    assert len(training) + len(held) == 190
    _, (canonical_training, _) = parts("canonical")
    for i, (key, *names) in enumerate(
        zip(hashes(canonical), hashes(official), hashes(canonical), strict=True)
    ):
        seen = {name in training for name in names if name in training | held}
        assert seen == ({key in canonical_training} if i >= 10 else set())  # ten are excluded
    pq.write_table(
        pa.table({"canonical": [None, *canonical], "official": [official[0], *official]}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(CorpusError, match="1 rows have a string in 'official' and none in 'canonical'"):
        parts("official")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5}, "give either table or texts"),
        ({"table": "t", "texts": "x", "steps": 5}, "give either table or texts"),
        ({"table": "t"}, "give either epochs or steps"),
        ({"table": "t", "steps": 5, "encoder": {"width": 3}}, "encoder.width"),
        ({"table": "t", "steps": 5, "encoder": {"hidden_size": 100}}, "not a multiple of heads"),
        (
            {"table": "t", "steps": 5, "encoder": {"vocabulary_size": 563}},
            "563 is less than SCOPE's 564 words",
        ),
        ({"table": "t", "steps": 5, "masking": {"rate": 15}}, "rate is a share"),
        ({"table": "t", "steps": 5, "launch": {"nodes": "two"}}, "launch.nodes"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        PretrainConfig.from_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data_fractions": [0.5, 1.5]}, "data_fractions.1"),
        ({"budgets": [3, 0]}, "budgets.1"),
        ({"sizes": {"a/b": TINY}}, "sizes.a/b"),
        (
            {"sizes": {"a": TINY, "b": TINY | {"vocabulary_size": 3}}},
            r"sizes\.b.* 3 is less than SCOPE's 564 words",
        ),
    ],
)
def test_a_wrong_combination_of_a_scaling_study_is_named(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    study = {"pretrain": {"table": "t", "steps": 1}, "sizes": {"a": TINY}, "budgets": [3]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(study | values))
    with pytest.raises(ConfigError, match=message):
        ScalingConfig.from_yaml(tmp_path / "config.yaml")


def test_the_shipped_configurations_are_valid(project: Path) -> None:
    base = PretrainConfig.from_yaml(project / "deployments/configs/pretrain.yaml")
    assert base.training.encoder == EncoderConfig(positions=128) and base.training.masking == Masking()
    for name in ("pretrain-small", "pretrain-study"):
        PretrainConfig.from_yaml(project / f"deployments/configs/{name}.yaml")
    ScalingConfig.from_yaml(project / "deployments/configs/scaling.yaml")
    ScalingConfig.from_yaml(project / "deployments/configs/scaling-study.yaml")


SERVE = """
import sys
from flows.pretrain import pretrain
pretrain.serve(name=sys.argv[1], pause_on_shutdown=False, print_starting_message=False)
"""


def ranks_of(folder: Path) -> list[psutil.Process]:
    """Living processes that train a job under `folder`, the agent among them."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in process.info["cmdline"] or ())
        and "cloud_core.training.pretrain" in (process.info["cmdline"] or ())
    ]


def stored_runs(runs: Path) -> list[Any]:
    """MLflow's runs in the experiment `pretrain` of a runs folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUD_RUNS", str(runs))
        # MLflow's own set_tracking_uri leaves it in the environment, in whichever test it was called.
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = mlflow_client()
        experiment = client.get_experiment_by_name("pretrain")
        return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.mark.slow
def test_cancelling_in_prefect_stops_every_rank_and_leaves_a_checkpoint(
    prefect_server: str, tmp_path: Path, project: Path
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(demo_strings(200)))
    config = PretrainConfig(
        name="endless", texts=tmp_path / "texts.txt", column="canonical",
        encoder=EncoderConfig(**TINY), steps=10**7, batch_size=20,
        validation_fraction=0.1, log_every=1, validate_every=10**7, checkpoint_every=10**7,
        launch={"processes": 2, "threads": 1},
    )  # fmt: skip
    runs = tmp_path / "runs"
    environment = os.environ | {
        "PREFECT_API_URL": prefect_server,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "CLOUD_RUNS": str(runs),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, "cancelled"], env=environment, cwd=project, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 150

    def until(condition: Any) -> Any:
        while not (value := condition()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.2)
        return value

    try:
        with get_client(sync_client=True) as client:
            found = until(lambda: [d for d in client.read_deployments() if d.name == "cancelled"])
            parameters = {"config": config.model_dump(mode="json")}
            run = client.create_flow_run_from_deployment(found[0].id, parameters=parameters)
            until(lambda: any(path.stat().st_size for path in runs.glob("checkpoints/*/metrics.jsonl")))
            # It reaches MLflow while it trains: this run never comes to its end.
            until(lambda: any("train/loss" in run.data.metrics for run in stored_runs(runs)))
            assert len(ranks_of(tmp_path)) == 3
            client.set_flow_run_state(run.id, Cancelling())
            until(lambda: client.read_flow_run(run.id).state_type.value == "CANCELLED")
        until(lambda: not ranks_of(tmp_path))
    finally:
        server.terminate()
        server.wait(30)
        for process in ranks_of(tmp_path):
            process.kill()
    folder = next(runs.glob("checkpoints/endless-*"))
    latest = (folder / "checkpoints" / "latest").read_text()
    assert int(latest.removeprefix("step-")) > 0
    (stored,) = stored_runs(runs)
    assert stored.info.status == "KILLED"


@pytest.mark.slow
def test_a_scaling_study_is_one_parent_with_children(prefect_server: str, tmp_path: Path, runs: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(demo_strings(300)))
    shared_settings = {
        "name": "study", "experiment": "scaling", "texts": str(tmp_path / "texts.txt"),
        "column": "canonical", "steps": 1,
        "batch_size": 64, "validation_fraction": 0.2, "launch": {"threads": 1},
    }  # fmt: skip
    config = ScalingConfig(
        pretrain=PretrainConfig.model_validate(shared_settings),
        sizes={"a": EncoderConfig(**TINY)},
        data_fractions=(0.25, 0.5, 1.0),
        budgets=(3,),
    )
    result = scaling(config)
    assert [(p["size"], p["data_fraction"], p["parameters"]) for p in result.points] == [
        ("a", fraction, 8192) for fraction in (0.25, 0.5, 1.0)
    ]
    assert 0.4 < result.points[1]["training_tokens"] / result.points[2]["training_tokens"] < 0.6
    assert result.law is not None
    assert set(result.law.exponents) == {"training_tokens"}  # what varied
    larger = {"sizes": {"a": TINY, "b": TINY | {"layers": 2}}, "budgets": (3, 4)}
    runs_of_grid = ScalingConfig.model_validate(config.model_dump() | larger).runs()
    assert [
        (size, run.training.encoder.layers, run.data_fraction, budget, run.steps)
        for size, budget, run in runs_of_grid
    ] == [
        (size, layers, fraction, budget, budget)
        for size, layers in (("a", 1), ("b", 2))
        for fraction in (0.25, 0.5, 1.0)
        for budget in (3, 4)
    ]
    assert len({run.name for _, _, run in runs_of_grid}) == 12
    client = mlflow_client()
    experiment = client.get_experiment_by_name("scaling")
    assert experiment is not None
    stored = client.search_runs([experiment.experiment_id])
    children = [r for r in stored if r.data.tags.get("mlflow.parentRunId") == result.run_id]
    assert {child.info.run_id for child in children} == {point["run_id"] for point in result.points}
    names = {artifact.path for artifact in client.list_artifacts(result.run_id)}
    assert {"scaling.png", "scaling.json", "law.txt"} <= names
    law = client.get_run(result.run_id).data.metrics
    assert law["law/exponent_training_tokens"] == result.law.exponents["training_tokens"]
    assert law["law/floor"] == result.law.floor
