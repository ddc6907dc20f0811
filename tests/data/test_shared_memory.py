"""Workers without room in /dev/shm, and workers that die, end a command with one message instead of a wait without end."""

import os
import signal
from multiprocessing.connection import Connection

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from senna.data.shared_memory import SharedCollate, worker_errors
from senna.errors import DataError, SennaError


class Images(Dataset):
    """Eight samples. ``at_sample_3`` is called in the process that reads the sample."""

    def __init__(self, at_sample_3=lambda: None):
        self.at_sample_3 = at_sample_3

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3:
            self.at_sample_3()
        return {"images": torch.full((2, 3, 64, 64), index, dtype=torch.uint8), "facts": {"index": index}}


def read(dataset, workers=1) -> list:
    with worker_errors("--workers"):
        return list(DataLoader(dataset, 2, num_workers=workers, collate_fn=SharedCollate(list)))


def test_batches_are_in_shared_memory_only_if_a_worker_returns_them():
    for workers in (0, 1):
        batches = read(Images(), workers)
        assert [item["facts"]["index"] for batch in batches for item in batch] == list(range(8))
        assert all(item["images"].is_shared() == bool(workers) for batch in batches for item in batch)
        assert all((item["images"] == item["facts"]["index"]).all() for batch in batches for item in batch)


def test_small_tensors_arrive_unchanged_without_a_file_each():
    ids, flags, none = torch.arange(7), torch.tensor([[True], [False]]), torch.empty(0, 3, dtype=torch.float16)
    for workers in (0, 1):
        loader = DataLoader(
            [(ids, {"flags": [flags, none]}, "text")], 1, num_workers=workers, collate_fn=SharedCollate(list)
        )
        ((got, nested, text),) = next(iter(loader))
        assert text == "text"
        for tensor, want in zip((got, *nested["flags"]), (ids, flags, none), strict=True):
            assert torch.equal(tensor, want)
            assert tensor.dtype == want.dtype
            assert not tensor.is_shared()
        got += 1  # it can be written


def test_full_shared_memory_is_an_error_with_its_size_and_two_remedies(monkeypatch):
    def no_room(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)  # workers are forked
    with pytest.raises(SennaError, match=r"no room for its batch in /dev/shm \(\d+ MB, \d+ MB free\)") as error:
        read(Images())
    assert "--shm-size=8g" in error.value.remedy
    assert "--workers 1" in error.value.remedy
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGBUS), id="bus error"),
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGKILL), id="killed"),
        pytest.param(lambda: os._exit(3), id="exit"),
    ],
)
def test_a_worker_that_dies_is_one_error_with_a_remedy(end):
    with pytest.raises(SennaError) as error:
        read(Images(end))
    assert "a process that reads images" in error.value.message
    assert "--shm-size=8g" in error.value.remedy
    assert "--workers" in error.value.remedy


def test_a_worker_that_dies_while_it_hands_a_batch_over_is_the_same_error(monkeypatch):
    main, receive = os.getpid(), Connection._recv

    def closed(*given):
        if os.getpid() == main:  # workers are forked
            raise EOFError  # the worker's end of the connection is gone
        return receive(*given)

    monkeypatch.setattr(Connection, "_recv", closed)
    with pytest.raises(SennaError, match="while it handed a batch over") as error:
        read(Images())
    assert "--shm-size=8g" in error.value.remedy


@pytest.mark.parametrize("error", [EOFError(), FileNotFoundError(2, "no such file"), ConnectionResetError()], ids=repr)
def test_the_same_exceptions_from_elsewhere_pass_unchanged(error):
    with pytest.raises(type(error)) as found, worker_errors("--workers"):
        raise error
    assert found.value is error


def test_a_bus_error_that_torch_names_is_a_lack_of_shared_memory():
    with pytest.raises(SennaError, match="no room for its batch"), worker_errors("--workers"):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")


@pytest.mark.parametrize("error", [RuntimeError("a shape is wrong"), DataError("no image"), ValueError("x")], ids=str)
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as found, worker_errors("--workers"):
        raise error
    assert found.value is error
