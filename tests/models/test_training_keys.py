"""What a model folder says of the crystals that it was trained on."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cloud_core.models.checkpoint import save_encoder
from cloud_core.models.encoder import MaskedLanguageModel
from cloud_core.models.folder import CheckpointError
from cloud_core.models.geometry import EncoderConfig
from cloud_core.models.heads import PropertyModel
from cloud_core.models.targets import Target
from cloud_core.models.training_keys import FILE, TrainingKeys, read_training_keys

TINY = EncoderConfig(hidden_size=16, layers=1, heads=2, feed_forward=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return PropertyModel(TINY, [Target("gap")]).save(tmp_path / "model", {})


def test_keys_are_kept_by_label_as_32_bit_hashes(folder: Path) -> None:
    own = TrainingKeys.of({"gap": ["b", "a", "a"], "energy / atom": ["c"]})
    own.write(folder)
    tensors = load_file(folder / FILE)
    expected = {int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") for key in (b"a", b"b")}
    assert set(tensors["gap"].tolist()) == expected and tensors["gap"].dtype == np.uint32
    back = read_training_keys(folder)
    assert back is not None
    assert back.seen("gap", ["a", "c", "b"]).tolist() == [True, False, True]
    assert back.seen("energy / atom", ["a", "c"]).tolist() == [False, True]
    assert back.seen("another label", ["a"]).tolist() == [False]


def test_what_the_start_has_seen_is_added() -> None:
    both = TrainingKeys.of({"gap": ["a"]}) | TrainingKeys.of({"gap": ["b"], "energy": ["c"]})
    assert both.seen("gap", ["a", "b", "c"]).tolist() == [True, True, False]
    assert both.seen("energy", ["a", "b", "c"]).tolist() == [False, False, True]


def test_a_folder_that_does_not_say_is_not_one_that_has_seen_nothing(folder: Path, tmp_path: Path) -> None:
    assert read_training_keys(folder) is None
    encoder = save_encoder(tmp_path / "encoder", MaskedLanguageModel(TINY), {})
    assert read_training_keys(encoder) == TrainingKeys()  # pretraining reads no label
    TrainingKeys.of({"gap": ["a"]}).write(encoder)
    assert read_training_keys(encoder).seen("gap", ["a"]).all()


def test_a_damaged_or_later_file_is_refused(folder: Path) -> None:
    (folder / FILE).write_bytes(b"12345678 no tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        read_training_keys(folder)
    save_file({"gap": np.zeros(1, np.uint32)}, folder / FILE, {"version": "2"})
    with pytest.raises(CheckpointError, match=r"of version 2.*upgrade the program"):
        read_training_keys(folder)


def test_of_many_crystals_hardly_one_is_mistaken() -> None:
    known = TrainingKeys.of({"gap": (f"known {i}" for i in range(100_000))})
    assert known.seen("gap", [f"known {i}" for i in range(1000)]).all()
    assert known.seen("gap", [f"new {i}" for i in range(20_000)]).sum() <= 3  # 0.5 expected
