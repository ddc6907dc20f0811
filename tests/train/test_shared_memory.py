"""Runs with as little shared memory as a container may have, or less."""

import pytest

from tests.helpers import small_shared_memory
from tests.helpers.forks import Run


def train(toy, size: str, output_dir, **options):
    flags = toy.flags(output_dir, dataloader_num_workers=1, per_device_train_batch_size=12, **options)
    result = Run(small_shared_memory.run, [size, "train", *flags], toy.folder).result()
    if result.returncode == small_shared_memory.REFUSED:
        pytest.skip("no user namespace in which a tmpfs can be mounted")
    return result


def test_a_run_without_room_for_its_batches_warns_and_ends_with_one_message(toy, tmp_path):
    result = train(toy, "96k", tmp_path / "out")  # two batches; torch's semaphores take half of it
    assert result.returncode == 1, result.stderr
    warning, failure = result.stderr.split("senna train: error: ")
    assert "98 kB free in /dev/shm" in warning
    assert "no room for its batch in /dev/shm" in failure
    for text in (warning, failure):
        assert "docker run --shm-size=8g" in text
        assert "--dataloader_num_workers" in text
    assert "Traceback" not in result.stderr


def test_a_run_without_room_for_one_batch_of_each_worker_is_refused(toy, tmp_path):
    result = train(toy, "48k", tmp_path / "out")
    assert result.returncode == 2, result.stderr
    assert "not even one batch of each worker fits" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_with_the_shared_memory_of_a_container_ends(toy, tmp_path):
    result = train(toy, "64m", tmp_path / "out", num_train_epochs=1)
    assert result.returncode == 0, result.stderr
    assert "shared memory" not in result.stderr
