"""`senna download` against a hub on loopback, over real HTTP and with the real client."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from senna.cli import main as cli
from senna.download import assets
from senna.download import hub as hub_module
from senna.download.command import listing
from senna.download.shell import exports
from senna.errors import SennaError, UsageError
from tests.helpers.loopback_hub import Hub, Repository
from tests.helpers.small_assets import BIG, IMAGES, noise

FIRST = "pytorch_model-00001-of-00002.bin"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "assets"


@pytest.fixture
def vicuna(hub):
    return hub.repositories[assets.VICUNA.repo]


def content(folder):
    """Return name -> content of the visible files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_only_the_required_files_are_downloaded(download, hub, vicuna, out):
    assert download() == 0
    required = {name for name in vicuna.files if name not in ("README.md", ".gitattributes")}
    assert content(out / "vicuna-7b-v1.5") == {name: vicuna.files[name] for name in required}
    clip = {"config.json", "preprocessor_config.json", "pytorch_model.bin"}
    assert set(content(out / "clip-vit-large-patch14-336")) == clip
    assert sum(hub.sent.values()) == sum(len(vicuna.files[name]) for name in required) + 5000 + 2 + 22


def test_safetensors_are_preferred_to_pickles(download, out):
    assert download("--preset", "senna") == 0
    weights = {"model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    assert set(content(out / "Senna")) == {"config.json", "tokenizer.model"} | weights


def test_the_printed_lines_set_the_variables_in_a_shell(download, tmp_path, capsys, monkeypatch):
    out = tmp_path / "my assets; $HOME"
    assert download("--preset", "7b", "pretrain-data", "--out", out) == 0
    printed = capsys.readouterr().out
    shell = 'eval "$1"; printf "%s\\n" "$MODEL_PATH" "$VISION_TOWER" "$DATA" "$IMAGE_DATA"'
    values = subprocess.run(["sh", "-euc", shell, "sh", printed], capture_output=True, text=True, check=True).stdout
    pretrain = out / "LLaVA-Pretrain"
    expected = [
        out / "vicuna-7b-v1.5",
        out / "clip-vit-large-patch14-336",
        pretrain / "blip_laion_cc_sbu_558k.json",
        pretrain / "images",
    ]
    assert values.splitlines() == list(map(str, expected))
    assert all(path.exists() for path in expected)


def test_a_variable_is_exported_once(tmp_path):
    lines = exports(assets.PRESETS["all"], tmp_path).splitlines()
    assert [line for line in lines if "MODEL_PATH" in line] == [
        f"export MODEL_PATH={tmp_path}/vicuna-7b-v1.5",
        f"# export MODEL_PATH={tmp_path}/Senna",
    ]
    assert f"# senna convert ... --captioner llava --captioner-model {tmp_path}/llava-v1.6-34b-hf" in lines


def test_an_interrupted_connection_resumes_at_the_byte_it_reached(download, hub, out):
    hub.cuts[FIRST] = [100_000, 50_000]
    assert download() == 0
    assert hub.ranges.count((FIRST, "")) == 1
    assert [requested for name, requested in hub.ranges if name == FIRST] == ["", "bytes=100000-", "bytes=150000-"]
    assert hub.sent[FIRST] == BIG
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)


def test_a_server_without_ranges_sends_the_file_from_the_beginning(download, hub, out):
    hub.cuts[FIRST] = [100_000]
    hub.ignores_ranges = True
    assert download() == 0
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)
    assert hub.sent[FIRST] == 100_000 + BIG


def test_a_busy_hub_is_retried(download, hub):
    hub.busy = 3
    assert download() == 0


def test_repeated_interruptions_end_with_an_error_and_the_next_run_continues(download, hub, out):
    hub.cuts[FIRST] = [70_000, *[0] * 6]
    with pytest.raises(SennaError, match=r"cannot be reached.*0\.1 of 0\.3 MB are kept") as error:
        download()
    assert "the same command continues" in error.value.remedy
    assert not (out / "vicuna-7b-v1.5" / FIRST).exists()
    hub.cuts.clear()
    assert download() == 0
    assert hub.sent[FIRST] == BIG
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)


def test_a_killed_download_is_resumed(hub, out, subprocess_environment):
    hub.pause = 0.2  # five blocks: a second
    environment = subprocess_environment
    command = [sys.executable, "-m", "senna", "download", "--endpoint", hub.endpoint, "--out", str(out)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while hub.sent.get(FIRST, 0) < 150_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (partial,) = (out / "vicuna-7b-v1.5").glob(f".{FIRST}.*.part")
    kept = partial.stat().st_size
    assert 0 < kept < BIG
    hub.pause = 0.0
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{FIRST}: continuing after" in done.stderr
    assert [requested for name, requested in hub.ranges if name == FIRST][1:] == [f"bytes={kept}-"]
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"unset", "export"}  # only the lines for the shell


@pytest.mark.parametrize("name", [FIRST, "config.json"], ids=["large, sha256", "small, git's sha1"])
def test_a_wrong_hash_is_refused(download, vicuna, out, name):
    vicuna.listed[name] = bytes(reversed(vicuna.files[name]))
    with pytest.raises(SennaError, match="differs from what the hub states") as error:
        download()
    assert "run the same command again" in error.value.remedy
    assert not (out / "vicuna-7b-v1.5" / name).exists()
    assert not list((out / "vicuna-7b-v1.5").glob(f".{name}.*.part"))
    vicuna.listed.clear()
    assert download() == 0
    assert content(out / "vicuna-7b-v1.5")[name] == vicuna.files[name]


@pytest.mark.parametrize("resumed", [False, True], ids=["from the beginning", "resumed"])
def test_a_file_longer_than_the_hub_states_is_cut_off_and_deleted(download, hub, vicuna, out, resumed):
    vicuna.files[FIRST] = bytes(60_000_000)
    vicuna.listed[FIRST] = bytes(200_000)
    if resumed:
        hub.cuts[FIRST] = [100_000]
    with pytest.raises(SennaError, match=r"is longer than what the hub states \(sha256 .*200000 bytes\)"):
        download()
    assert hub.sent[FIRST] < 30_000_000  # the buffers of the connection
    assert not [path for path in out.rglob("*") if path.is_file() and path.stat().st_size > 100_000]


def test_a_second_run_needs_no_network(download, hub, out, capsys):
    assert download("--preset", "7b", "pretrain-data") == 0
    first = capsys.readouterr().out
    hub.close()
    count = len(hub.requests)
    assert download("--preset", "7b", "pretrain-data") == 0
    assert len(hub.requests) == count
    assert capsys.readouterr().out == first


def test_a_truncated_file_is_downloaded_again(download, hub, out):
    download()
    path = out / "vicuna-7b-v1.5" / FIRST
    path.write_bytes(path.read_bytes()[:1000])
    hub.sent.clear()
    assert download() == 0
    assert path.read_bytes() == noise(BIG, 1)
    assert hub.sent == {FIRST: BIG}


def test_a_small_modified_file_is_kept_under_another_name(download, vicuna, out):
    download()
    path = out / "vicuna-7b-v1.5" / "config.json"
    path.write_text('{"mine": true}')
    assert download() == 0
    assert path.read_bytes() == vicuna.files["config.json"]
    assert path.with_name("config.json.old").read_text() == '{"mine": true}'


def test_files_that_were_copied_there_are_verified_and_not_downloaded(download, hub, vicuna, out):
    folder = out / "vicuna-7b-v1.5"
    folder.mkdir(parents=True)
    (folder / FIRST).write_bytes(vicuna.files[FIRST])
    assert download() == 0
    assert FIRST not in hub.sent


def test_too_little_disk_space_is_refused_before_the_first_byte(download, hub, out, monkeypatch):
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=250_000))
    with pytest.raises(UsageError, match=r"disk space required.*250\.0 kB free") as error:
        download()
    assert "--out" in error.value.remedy
    assert not hub.sent
    assert not out.exists()


def test_resumed_bytes_need_no_disk_space(download, hub, out, monkeypatch):
    hub.cuts[FIRST] = [200_000, *[0] * 6]
    with pytest.raises(SennaError):
        download()
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=120_000))
    hub.cuts.clear()
    assert download() == 0


def test_an_archive_needs_twice_its_size(download, hub, monkeypatch):
    size = len(hub.repositories[assets.LLAVA_PRETRAIN.repo].files["images.zip"])
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size * 2))
    with pytest.raises(UsageError, match="make room"):
        download("--preset", "pretrain-data")
    assert not hub.sent


def test_an_archive_is_unpacked_and_deleted(download, hub, out):
    assert download("--preset", "pretrain-data") == 0
    folder = out / "LLaVA-Pretrain"
    found = {str(path.relative_to(folder / "images")): path.read_bytes() for path in folder.rglob("*.jpg")}
    assert found == IMAGES
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert visible == {"blip_laion_cc_sbu_558k.json", "images"}
    shutil.rmtree(folder / "images")  # then the archive is downloaded again
    hub.sent.clear()
    assert download("--preset", "pretrain-data") == 0
    assert set(hub.sent) == {"images.zip"}


def test_an_unpinned_asset_keeps_its_first_commit_until_update(download, hub, out, capsys):
    senna = hub.repositories[assets.SENNA.repo]
    assert download("--preset", "senna") == 0
    assert f"rb93dett/Senna at {'5' * 40}" in capsys.readouterr().err
    first, weights = senna.commit, out / "Senna" / "model-00001-of-00001.safetensors"
    senna.commit = "6" * 40
    senna.files["model-00001-of-00001.safetensors"] = noise(4100, 12)
    assert download("--preset", "senna") == 0
    assert weights.read_bytes() == noise(4000, 8)
    weights.unlink()  # it is requested from the same commit, which this hub no longer has
    with pytest.raises(UsageError, match="404"):
        download("--preset", "senna")
    assert first in hub.requests[-1]
    assert download("--preset", "senna", "--update") == 0
    assert weights.read_bytes() == noise(4100, 12)


def test_update_needs_an_unpinned_asset(download):
    with pytest.raises(UsageError, match="--update: all chosen assets have a pinned commit"):
        download("--update")


def test_a_commit_other_than_the_pinned_one_is_refused(download, vicuna, monkeypatch):
    monkeypatch.setattr(vicuna, "info", lambda name: Repository.info(vicuna, name) | {"sha": "d" * 40})
    with pytest.raises(UsageError, match=f"returned commit {'d' * 40} of lmsys/vicuna-7b-v1.5 instead of"):
        download()


def test_the_endpoint_flag_takes_precedence_over_the_environment(hub, tmp_path, subprocess_environment):
    other = Hub()
    other.repositories = hub.repositories
    environment = subprocess_environment | {"HF_ENDPOINT": other.endpoint}
    command = [sys.executable, "-m", "senna", "download", "--out", str(tmp_path)]
    try:
        subprocess.run([*command, "--endpoint", hub.endpoint], env=environment, check=True, capture_output=True)
        assert hub.requests
        assert not other.requests
        subprocess.run([*command, "--preset", "senna"], env=environment, check=True, capture_output=True)
        assert other.requests
    finally:
        other.close()


def test_an_endpoint_without_a_scheme_is_refused(download):
    with pytest.raises(UsageError, match=r"--endpoint hf\.example") as error:
        download("--endpoint", "hf.example")
    assert "https://" in error.value.remedy


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (401, "requires an account (401)", "HF_TOKEN=hf_... or run `hf auth login`"),
        (403, "your account has no access (403)", "accept its terms"),
        (404, "no such repository, commit or file (404)", "--endpoint URL"),
        (500, "status 500", "run the same command again later"),
    ],
)
def test_a_refusal_names_the_remedy(download, vicuna, out, status, message, remedy):
    vicuna.status = status
    with pytest.raises(UsageError) as error:
        download()
    assert message in error.value.message
    assert remedy in error.value.remedy
    assert not out.exists()


def test_a_gated_file_is_not_retried(download, vicuna, hub):
    vicuna.files_status = 403
    with pytest.raises(SennaError, match="accept its terms"):
        download()
    assert len([path for path in hub.requests if "/resolve/" in path]) == 1


def test_offline_mode_is_reported(download, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UsageError, match=r"HF_HUB_OFFLINE \(or TRANSFORMERS_OFFLINE\) forbids network access; unset it"
    ):
        download()


def test_an_unreachable_hub_is_reported_within_seconds(download, monkeypatch):
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:1 cannot be reached.*HTTPS_PROXY.*--endpoint URL"):
        download("--endpoint", "http://127.0.0.1:1")
    monkeypatch.setattr(hub_module, "RESPONSE_TIMEOUT", 0.2)
    monkeypatch.setattr(hub_module.HfApi, "repo_info", lambda *_, **__: time.sleep(5))  # a DNS look-up that hangs
    start = time.monotonic()
    with pytest.raises(UsageError, match="cannot be reached: no answer in"):
        download()
    assert time.monotonic() - start < 3


def test_a_server_that_is_no_hub_is_refused(download, vicuna, monkeypatch):
    monkeypatch.setattr(vicuna, "info", lambda name: ["another service"])
    with pytest.raises(UsageError, match="does not answer like a hub"):
        download()


def test_a_second_download_into_the_same_folder_is_refused(download, out):
    from senna.download.store import Store

    with Store(out / "vicuna-7b-v1.5").lock(), pytest.raises(SennaError, match="another senna download is running"):
        download()


def test_the_list_names_every_asset_and_its_commit():
    text = listing()
    for asset in assets.PRESETS["all"]:
        assert asset.repo in text
        assert asset.revision is None or asset.revision in text


def test_an_unknown_preset_exits_with_code_2(capsys):
    assert cli(["download", "--preset", "13b"]) == 2
    error = capsys.readouterr().err
    assert "--preset 13b is unknown" in error
    assert "choose one or more of 7b, pretrain-data" in error
