"""What a process is told before records pass by the million."""

import gc

import pyarrow as pa
import pytest

from cloud_core.encoding.memory import many_records


def test_what_is_imported_is_left_alone_by_the_collector_for_that_time_only() -> None:
    before, pool = gc.get_freeze_count(), pa.default_memory_pool().backend_name
    with pytest.raises(ValueError, match="in the midst"), many_records():
        assert gc.get_freeze_count() > before + 1000
        assert pa.default_memory_pool().backend_name == "system"
        raise ValueError("in the midst")
    assert gc.get_freeze_count() == 0
    assert pa.default_memory_pool().backend_name == pool
