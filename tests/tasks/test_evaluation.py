"""Fits side by side: which GPUs each of them sees."""

import pytest
import torch

from tasks.finetuning import devices_of
from tasks.training import TrainingError


def test_each_fit_sees_gpus_of_its_own_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [devices_of(slot, 2) for slot in range(3)] == ["0,1", "2,3", "0,1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-1f")  # what a scheduler gave this process
    assert [devices_of(slot, 1) for slot in range(3)] == ["5", "GPU-1f", "5"]
    with pytest.raises(TrainingError, match=r"processes 3: .* 2 can be seen"):
        devices_of(0, 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices_of(0, 3) is None
