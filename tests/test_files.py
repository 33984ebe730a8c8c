"""Files that are whole or not there, and errors of one line."""

from pathlib import Path
from threading import Thread

import fsspec
import pandas as pd
import pytest

from cloud_core.errors import CloudError
from cloud_core.files import FrameError, atomic, atomic_folder, json_digest, put, read_frame, write_json


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as partial:
        partial.write_text("first")
    with pytest.raises(KeyError), atomic(path) as partial:
        partial.write_text("half of the sec")
        raise KeyError
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for text in ("first", "second"):
        with atomic_folder(folder) as partial:
            (partial / "config.json").write_text(text)
    with pytest.raises(KeyError), atomic_folder(folder) as partial:
        (partial / "config.json").write_text("third")
        raise KeyError
    assert (folder / "config.json").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_two_writers_do_not_tear_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    contents = ["a" * 100_000, "b" * 200_000]
    threads = [Thread(target=lambda c=c: [write_json(path, c) for _ in range(20)]) for c in contents]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert path.read_text() in {f'"{content}"' for content in contents}
    assert list(tmp_path.iterdir()) == [path]


def test_objects_of_other_file_systems(tmp_path: Path) -> None:
    for fs, path in (
        (fsspec.filesystem("memory"), "/x/a.json"),
        (fsspec.filesystem("file"), f"{tmp_path}/x/a"),
    ):
        put(fs, path, b"1")
        put(fs, path, b"22")
        assert fs.cat_file(path) == b"22"


def test_frames_of_every_kind(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.json", orient="records")
    frame.to_json(tmp_path / "s.json.gz", orient="split")
    for name in ("t.csv.gz", "t.parquet", "t.json", "s.json.gz"):
        pd.testing.assert_frame_equal(read_frame(tmp_path / name), frame)
    (tmp_path / "broken.parquet").write_text("no")
    for name, words in (
        ("nowhere.csv", "no such file"),
        ("broken.parquet", "cannot be read"),
        ("t.xls", "of unknown"),
    ):
        with pytest.raises(FrameError, match=words) as error:
            read_frame(tmp_path / name)
        assert isinstance(error.value, CloudError) and name in str(error.value)


def test_a_digest_does_not_hang_on_the_order_of_keys() -> None:
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1}) != json_digest({"a": 1, "b": 3})
