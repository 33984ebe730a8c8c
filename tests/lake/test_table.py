"""Exactly once, the current row, and the same content however it came there."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cloud_core.lake.errors import LakeError, explained
from cloud_core.lake.maintenance import compact, purge
from cloud_core.lake.table import Table

WRITERS = Path(__file__).parent / "writers.py"


def write(table: Table, rows: pa.Table, name: str) -> int:
    """Claim, then append what is to be done: what the encoding does with each chunk. Returns rows written."""
    claim = table.claim(rows, name)
    todo = rows.filter(pa.array(claim.todo))
    return todo.num_rows if table.append_chunk(todo, claim.key, claim.revisions) else 0


def held(table: Table) -> dict[str, tuple[str, str]]:
    """Structure id -> (content hash, status); fails where an id appears twice."""
    rows = table.rows(columns=["structure_id", "content_hash", "status"]).to_pylist()
    values = {row["structure_id"]: (row["content_hash"], row["status"]) for row in rows}
    assert len(values) == len(rows)
    return values


def test_a_key_is_written_once(table, rows):
    assert table.append_chunk(rows(0, 10), "one")
    assert not table.append_chunk(rows(0, 10), "one")
    assert not Table.open(table.uri).append_chunk(rows(0, 10), "one")
    assert table.version == 1
    assert table.counts() == {"encoded": 10, "quarantined": 0, "withdrawn": 0}


def test_views_divide_one_commit(table, rows):
    chunk = pa.concat_tables([rows(0, 3), rows(3, 2, status="quarantined")])
    table.append_chunk(chunk, "one")
    assert table.version == 1
    assert table.scope().num_rows == 3
    assert table.quarantine(["reason"])["reason"].to_pylist() == ["timeout"] * 2
    assert table.scope(["structure_id"]).column_names == ["structure_id"]


def test_unchanged_rows_are_not_written_again(table, rows):
    assert write(table, rows(0, 10), "one") == 10
    again = Table.open(table.uri)
    assert write(again, rows(0, 12), "two") == 2
    assert write(again, rows(0, 12), "three") == 0
    assert again.version == 2


@pytest.mark.parametrize("changed", [{"content": "b"}, {"request": "f2"}, {"label": 2.0}])
def test_a_change_of_content_encoder_or_label_is_written(table, rows, changed):
    write(table, rows(0, 5), "one")
    assert write(table, rows(0, 5, **changed), "two") == (4 if "label" in changed else 5)  # 0 · 2 = 0 · 1
    assert len(held(table)) == 5


def test_update_there_and_back_again(table, rows):
    a = rows(0, 10)
    hashes = []
    for content in "aba":
        assert write(table, rows(0, 10, content=content), "same name each time") == 10
        hashes.append(table.content_hash())
        assert {value for value, _ in held(table).values()} == {f"{content}{i}" for i in range(10)}
    assert hashes[0] == hashes[2] != hashes[1]
    purge(table)
    assert table.is_purged
    assert table.content_hash() == hashes[0]
    assert write(table, a, "same name each time") == 0


def test_withdrawn_and_returned(table, rows):
    write(table, rows(0, 10), "one")
    before = table.content_hash()
    assert table.withdraw(["test:00002", "test:00003", "no such"], "gone") == 2
    assert table.withdraw(["test:00002"], "gone again") == 0
    assert table.counts() == {"encoded": 8, "quarantined": 0, "withdrawn": 2}
    purge(table)
    assert table.counts() == {"encoded": 8, "quarantined": 0, "withdrawn": 2}
    assert write(table, rows(0, 10), "one") == 2
    assert table.content_hash() == before


def test_rows_are_written_again_after_a_restore(table, rows):
    """Delta's transaction keys outlive a `restore`; a lake that trusted them alone would lose these rows."""
    write(table, rows(0, 10), "one")
    write(table, rows(10, 10), "two")
    table.delta.restore(1)
    again = Table.open(table.uri)
    assert len(held(again)) == 10
    assert write(again, rows(10, 10), "two") == 10
    assert len(held(again)) == 20
    assert write(table, rows(10, 10), "two") == 0  # the object that was open all the time


def test_two_writers_of_one_row_in_different_chunks(table, rows):
    """The keys differ, the rows overlap: the second commit leaves out what the first one wrote."""
    mine, theirs = table, Table.open(table.uri)
    my_claim, their_claim = mine.claim(rows(0, 10), "a"), theirs.claim(rows(5, 10), "b")
    assert theirs.append_chunk(rows(5, 10), their_claim.key, their_claim.revisions)
    assert mine.append_chunk(rows(0, 10), my_claim.key, my_claim.revisions)
    assert len(held(table)) == 15
    assert table.is_purged


@pytest.mark.parametrize("sizes", [(50, 50, 50, 50), (50, 30, 70, 20)])
def test_racing_processes(table, sizes):
    """Four processes write the same 600 rows at once; not one row is lost or doubled."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(WRITERS), table.uri, "chunks", str(size), "600", "0.05"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for size in sizes
    ]
    written = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    table.refresh()
    assert len(held(table)) == 600
    assert table.is_purged  # nothing was written twice, not even to be superseded
    assert sum(written) == table.version
    if len(set(sizes)) == 1:
        assert table.version == 12


def test_a_writer_killed_at_random_moments(table, rows):
    """What it said was committed is there, and a new process goes on with the next row."""
    moments = random.Random(4)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, str(WRITERS), table.uri, "forever"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        said = -1
        for _ in range(moments.randint(3, 25)):
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        table.refresh()
        numbers = sorted(int(name.partition(":")[2]) for name in held(table))
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > said
        assert table.is_purged


def test_content_hash_does_not_know_how_rows_came(tmp_path, rows):
    def filled(name: str, sizes: int, backwards: bool) -> Table:
        made = Table.create(str(tmp_path / name))
        starts = list(range(0, 60, sizes))
        for start in reversed(starts) if backwards else starts:
            write(made, rows(start, sizes), f"chunk {start}")
        return made

    one, other = filled("one", 60, False), filled("other", 6, True)
    assert one.content_hash() == other.content_hash()
    compact(other, target_size=2**20)
    assert len(other.files()) == 1
    assert one.content_hash() == other.content_hash()
    write(other, rows(3, 1, content="b"), "changed")
    assert one.content_hash() != other.content_hash()


def test_settling_beside_a_writer(table, rows):
    """`purge` starts again where a chunk came in between, and takes nothing of it away."""
    write(table, rows(0, 50), "one")
    write(table, rows(0, 50, content="b"), "two")
    other = Table.open(table.uri)
    write(other, rows(50, 10), "three")
    assert purge(table) == 50
    assert len(held(table)) == 60
    assert write(other, rows(0, 60, content="c"), "four") == 60
    assert purge(other) == 60
    assert set(held(other).values()) == {(f"c{i}", "encoded") for i in range(60)}


def test_past_versions_can_be_read(table, rows):
    write(table, rows(0, 5), "one")
    write(table, rows(0, 5, content="b"), "two")
    purge(table)
    past = Table.open(table.uri, version=1)
    assert past.content_hash() != table.content_hash()
    assert set(held(past).values()) == {(f"a{i}", "encoded") for i in range(5)}
    with pytest.raises(LakeError, match="no version 99"):
        Table.open(table.uri, version=99)
    with pytest.raises(LakeError, match="past version"):
        past.append_chunk(rows(9, 1), "on the past")


def test_bad_input_is_named(table, rows, tmp_path):
    with pytest.raises(LakeError, match="twice"):
        table.append_chunk(pa.concat_tables([rows(0, 2), rows(1, 2)]), "one")
    with pytest.raises(LakeError, match="colour"):
        table.append_chunk(rows(0, 1).append_column("colour", pa.array(["red"])), "one")
    with pytest.raises(LakeError, match="lack the column status"):
        table.append_chunk(rows(0, 1).drop_columns("status"), "one")
    with pytest.raises(LakeError, match="no column nonsense"):
        table.scope(["nonsense"])
    with pytest.raises(LakeError, match="no table here"):
        Table.open(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    assert table.version == 0


def test_look_up(table, rows):
    write(table, rows(0, 10), "one")
    write(table, rows(4, 1, content="b"), "two")
    found = table.look_up(["test:00004", "test:00009", "test:99999"])
    assert dict(zip(found["structure_id"].to_pylist(), found["content_hash"].to_pylist(), strict=True)) == {
        "test:00004": "b4",
        "test:00009": "a9",
    }
    assert np.array_equal(table.unchanged(rows(3, 3)), [True, False, True])


def test_a_look_at_others_commits_is_taken_into_account(table, rows):
    """After a refresh the next commit has no conflict that would tell it what others wrote."""
    write(table, rows(0, 5), "one")
    assert table.index
    write(Table.open(table.uri), rows(5, 10), "theirs")
    table.refresh()
    assert write(table, rows(5, 12), "two") == 2
    assert len(held(table)) == 17


def test_a_replay_yields_to_what_was_written_meanwhile(table, rows):
    write(table, rows(0, 4, status="quarantined"), "one")
    replay = rows(0, 4)  # as encoded by a replay that began here
    claim = table.claim(replay, "replay", again=True)
    other = Table.open(table.uri)
    write(other, rows(0, 1, content="b"), "an update")
    other.withdraw(["test:00001"], "gone")
    purge(other)  # the others' revisions begin anew
    assert table.append_chunk(replay, claim.key, claim.revisions, again=True)
    assert held(table) == {
        "test:00000": ("b0", "encoded"),
        "test:00001": ("a1", "withdrawn"),
        "test:00002": ("a2", "encoded"),
        "test:00003": ("a3", "encoded"),
    }


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Generic S3 error: Client error with status 403 Forbidden", "refuses the credentials"),
        ("HTTP error: 401 Unauthorized", "refuses the credentials"),
        ("Object at location /t/part-00000-4401-4403.parquet not found", "was vacuumed"),
        ('File "_base.py", line 401, in __get_result', "line 401"),
    ],
)
def test_a_number_is_not_taken_for_refused_credentials(said, told):
    message = str(explained("t", OSError(said)))
    assert told in message
    assert ("refuses the credentials" in message) == (told == "refuses the credentials")
