"""A process that reads images for `senna evaluate` and cannot go on ends the command with one message."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from senna.errors import SennaError
from senna.evaluate.predict import RankShare, SkipBudget, predict


class Prompts(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"facts": {"index": index}, "images": torch.zeros(1, 3, 96, 96, dtype=torch.uint8)}


def no_room(tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_a_batch_without_room_in_shared_memory_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)  # workers are forked
    store = SimpleNamespace(missing=lambda batches: batches, append=lambda *_: None)
    arguments = (RankShare(workers=1), SkipBudget(0), "predictions")
    with pytest.raises(SennaError, match="no room for its batch in /dev/shm") as error:
        predict(store, Prompts(), [[0, 1], [2, 3]], lambda items: [{} for _ in items], *arguments)
    assert "--shm-size=8g" in error.value.remedy
    assert "--workers 1" in error.value.remedy
