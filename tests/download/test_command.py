"""What `senna download` promises, against a hub on loopback: over real HTTP, with the real client."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from senna.cli import main as cli
from senna.download import assets
from senna.download import hub as asking
from senna.download.command import exports, listing
from senna.errors import SennaError, UsageError
from tests.conftest import REPOSITORY
from tests.download.conftest import BIG, PICTURES, noise
from tests.download.loopback_hub import Hub, Repository

FIRST = "pytorch_model-00001-of-00002.bin"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "assets"


@pytest.fixture
def vicuna(hub):
    return hub.repositories[assets.VICUNA.repo]


def content(folder):
    """The files of a folder that a user sees."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_only_the_files_needed_come_and_are_the_hubs(download, hub, vicuna, out):
    assert download() == 0
    wanted = {name for name in vicuna.files if name not in ("README.md", ".gitattributes")}
    assert content(out / "vicuna-7b-v1.5") == {name: vicuna.files[name] for name in wanted}
    clip = {"config.json", "preprocessor_config.json", "pytorch_model.bin"}
    assert set(content(out / "clip-vit-large-patch14-336")) == clip
    assert sum(hub.sent.values()) == sum(len(vicuna.files[name]) for name in wanted) + 5000 + 2 + 22


def test_safetensors_are_preferred_to_pickles(download, out):
    assert download("--preset", "senna") == 0
    weights = {"model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    assert set(content(out / "Senna")) == {"config.json", "tokenizer.model"} | weights


def test_the_lines_printed_set_the_scripts_variables_in_a_shell(download, tmp_path, capsys, monkeypatch):
    out = tmp_path / "my assets; $HOME"
    assert download("--preset", "7b", "pretrain-data", "--out", out) == 0
    printed = capsys.readouterr().out
    shell = 'eval "$1"; printf "%s\\n" "$MODEL_PATH" "$VISION_TOWER" "$DATA" "$IMAGE_DATA"'
    told = subprocess.run(["sh", "-euc", shell, "sh", printed], capture_output=True, text=True, check=True).stdout
    pretrain = out / "LLaVA-Pretrain"
    expected = [
        out / "vicuna-7b-v1.5",
        out / "clip-vit-large-patch14-336",
        pretrain / "blip_laion_cc_sbu_558k.json",
        pretrain / "images",
    ]
    assert told.splitlines() == list(map(str, expected))
    assert all(path.exists() for path in expected)


def test_a_variable_is_exported_once(tmp_path):
    lines = exports(assets.PRESETS["all"], tmp_path).splitlines()
    assert [line for line in lines if "MODEL_PATH" in line] == [
        f"export MODEL_PATH={tmp_path}/vicuna-7b-v1.5",
        f"# export MODEL_PATH={tmp_path}/Senna",
    ]
    assert f"# senna convert ... --captioner llava --captioner-model {tmp_path}/llava-v1.6-34b-hf" in lines


def test_a_cut_connection_continues_at_the_byte_it_had(download, hub, out):
    hub.cuts[FIRST] = [100_000, 50_000]
    assert download() == 0
    assert hub.ranges.count((FIRST, "")) == 1
    assert [r for name, r in hub.ranges if name == FIRST] == ["", "bytes=100000-", "bytes=150000-"]
    assert hub.sent[FIRST] == BIG
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)


def test_a_server_that_cannot_continue_is_asked_for_the_whole_file(download, hub, out):
    hub.cuts[FIRST] = [100_000]
    hub.ignores_ranges = True
    assert download() == 0
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)
    assert hub.sent[FIRST] == 100_000 + BIG


def test_a_busy_hub_is_asked_again(download, hub):
    hub.busy = 3
    assert download() == 0


def test_what_is_cut_again_and_again_ends_with_one_message_and_goes_on_later(download, hub, out):
    hub.cuts[FIRST] = [70_000, *[0] * 6]
    with pytest.raises(SennaError, match=r"cannot be reached.*0\.1 of 0\.3 MB are kept, and the same command goes on"):
        download()
    assert not (out / "vicuna-7b-v1.5" / FIRST).exists()
    hub.cuts.clear()
    assert download() == 0
    assert hub.sent[FIRST] == BIG
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)


def test_a_killed_download_continues(hub, out):
    hub.pause = 0.2  # five blocks: a second
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "0"}
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
    assert f"{FIRST}: going on after" in done.stderr
    assert [r for name, r in hub.ranges if name == FIRST][1:] == [f"bytes={kept}-"]
    assert content(out / "vicuna-7b-v1.5")[FIRST] == noise(BIG, 1)
    assert done.stdout.startswith("export MODEL_PATH=")  # the lines for the scripts, and nothing else


@pytest.mark.parametrize("name", [FIRST, "config.json"], ids=["large, sha256", "small, git's sha1"])
def test_a_wrong_hash_is_refused(download, vicuna, out, name):
    vicuna.stated[name] = bytes(reversed(vicuna.files[name]))
    with pytest.raises(SennaError, match=r"is not what the hub states .* removed; run the same command again"):
        download()
    assert not (out / "vicuna-7b-v1.5" / name).exists()
    assert not list((out / "vicuna-7b-v1.5").glob(f".{name}.*.part"))
    vicuna.stated.clear()
    assert download() == 0
    assert content(out / "vicuna-7b-v1.5")[name] == vicuna.files[name]


def test_the_second_run_asks_nothing(download, hub, out, capsys):
    assert download("--preset", "7b", "pretrain-data") == 0
    first = capsys.readouterr().out
    hub.close()
    asked = len(hub.asked)
    assert download("--preset", "7b", "pretrain-data") == 0
    assert len(hub.asked) == asked
    assert capsys.readouterr().out == first


def test_a_truncated_file_is_fetched_anew(download, hub, out):
    download()
    path = out / "vicuna-7b-v1.5" / FIRST
    path.write_bytes(path.read_bytes()[:1000])
    hub.sent.clear()
    assert download() == 0
    assert path.read_bytes() == noise(BIG, 1)
    assert hub.sent == {FIRST: BIG}


def test_a_file_that_somebody_changed_is_kept_aside(download, vicuna, out):
    download()
    path = out / "vicuna-7b-v1.5" / "config.json"
    path.write_text('{"mine": true}')
    assert download() == 0
    assert path.read_bytes() == vicuna.files["config.json"]
    assert path.with_name("config.json.old").read_text() == '{"mine": true}'


def test_files_that_were_copied_there_are_read_and_not_fetched(download, hub, vicuna, out):
    folder = out / "vicuna-7b-v1.5"
    folder.mkdir(parents=True)
    (folder / FIRST).write_bytes(vicuna.files[FIRST])
    assert download() == 0
    assert FIRST not in hub.sent


def test_a_disk_too_small_is_told_before_the_first_byte(download, hub, out, monkeypatch):
    usage = shutil.disk_usage(out.parent)
    whole = BIG + 200_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=whole - 250_000))
    with pytest.raises(
        UsageError, match=r"are needed beside what is there already, 250\.0 kB are free; make room, or --out"
    ):
        download()
    assert not hub.sent
    assert not out.exists()


def test_what_is_there_already_needs_no_room(download, hub, out, monkeypatch):
    hub.cuts[FIRST] = [200_000, *[0] * 6]
    with pytest.raises(SennaError):
        download()
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=120_000))
    hub.cuts.clear()
    assert download() == 0


def test_an_archive_needs_room_twice(download, hub, monkeypatch):
    size = len(hub.repositories[assets.LLAVA_PRETRAIN.repo].files["images.zip"])
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size * 2))
    with pytest.raises(UsageError, match="make room"):
        download("--preset", "pretrain-data")
    assert not hub.sent


def test_pictures_are_unpacked_and_their_archive_removed(download, hub, out):
    assert download("--preset", "pretrain-data") == 0
    folder = out / "LLaVA-Pretrain"
    found = {str(p.relative_to(folder / "images")): p.read_bytes() for p in folder.rglob("*.jpg")}
    assert found == PICTURES
    assert set(content_names(folder)) == {"blip_laion_cc_sbu_558k.json", "images"}
    shutil.rmtree(folder / "images")  # then it has to come again
    hub.sent.clear()
    assert download("--preset", "pretrain-data") == 0
    assert set(hub.sent) == {"images.zip"}


def content_names(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_an_asset_without_a_commit_keeps_the_first_until_update(download, hub, out, capsys):
    senna = hub.repositories[assets.SENNA.repo]
    assert download("--preset", "senna") == 0
    assert f"rb93dett/Senna at {'5' * 40}" in capsys.readouterr().err
    first, weights = senna.commit, out / "Senna" / "model-00001-of-00001.safetensors"
    senna.commit = "6" * 40
    senna.files["model-00001-of-00001.safetensors"] = noise(4100, 12)
    assert download("--preset", "senna") == 0
    assert weights.read_bytes() == noise(4000, 8)
    weights.unlink()  # to complete it, the same commit is asked for: the hub of this test has it no more
    with pytest.raises(UsageError, match="404"):
        download("--preset", "senna")
    assert first in hub.asked[-1]
    assert download("--preset", "senna", "--update") == 0
    assert weights.read_bytes() == noise(4100, 12)


def test_update_without_such_an_asset_is_refused(download):
    with pytest.raises(UsageError, match="--update: every asset chosen has a commit of its own"):
        download("--update")


def test_another_commit_than_the_pinned_is_refused(download, vicuna, monkeypatch):
    monkeypatch.setattr(vicuna, "info", lambda name: Repository.info(vicuna, name) | {"sha": "d" * 40})
    with pytest.raises(UsageError, match=f"gives lmsys/vicuna-7b-v1.5 at {'d' * 40} where"):
        download()


def test_the_endpoint_flag_beats_the_environment(hub, tmp_path):
    other = Hub()
    other.repositories = hub.repositories
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": other.endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "senna", "download", "--out", str(tmp_path)]
    try:
        subprocess.run([*command, "--endpoint", hub.endpoint], env=environment, check=True, capture_output=True)
        assert hub.asked
        assert not other.asked
        subprocess.run([*command, "--preset", "senna"], env=environment, check=True, capture_output=True)
        assert other.asked
    finally:
        other.close()


def test_an_endpoint_without_a_scheme_is_refused(download):
    with pytest.raises(UsageError, match=r"--endpoint hf\.example: an address that begins with https://"):
        download("--endpoint", "hf.example")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, r"wants to know who asks \(401\).*HF_TOKEN=hf_\.\.\. or `hf auth login`"),
        (403, r"your account may not read it \(403\); open the page, accept its terms"),
        (404, r"no such repository, commit or file \(404\)"),
        (500, "the hub answers 500; run the same command again later"),
    ],
)
def test_a_refusal_says_what_to_do(download, vicuna, out, status, says):
    vicuna.status = status
    with pytest.raises(UsageError, match=says):
        download()
    assert not out.exists()


def test_a_gated_file_says_what_to_do(download, vicuna, hub):
    vicuna.files_status = 403
    with pytest.raises(SennaError, match="accept its terms"):
        download()
    assert len([path for path in hub.asked if "/resolve/" in path]) == 1  # no second try


def test_the_token_is_sent_and_its_refusal_told(download, hub, vicuna, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    vicuna.status = 401
    with pytest.raises(UsageError, match=r"does not accept your token \(401\).*check HF_TOKEN"):
        download()
    assert hub.authorization == ["Bearer hf_mine"]


def test_offline_is_told_at_once(download, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"HF_HUB_OFFLINE \(or TRANSFORMERS_OFFLINE\) forbids the network; unset it"):
        download()


def test_a_hub_that_cannot_be_reached_is_told_within_seconds(download, monkeypatch):
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:1 cannot be reached.*HTTPS_PROXY.*--endpoint URL"):
        download("--endpoint", "http://127.0.0.1:1")
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    monkeypatch.setattr(asking.HfApi, "repo_info", lambda *_, **__: time.sleep(5))  # a look-up that hangs
    begun = time.monotonic()
    with pytest.raises(UsageError, match="cannot be reached: no answer in"):
        download()
    assert time.monotonic() - begun < 3


def test_what_is_no_hub_is_told(download, vicuna, monkeypatch):
    monkeypatch.setattr(vicuna, "info", lambda name: ["another service"])
    with pytest.raises(UsageError, match="does not answer as a hub does"):
        download()


def test_a_second_download_into_the_same_folder_is_refused(download, out):
    from senna.download.store import Store

    with Store(out / "vicuna-7b-v1.5").alone(), pytest.raises(SennaError, match="another senna download is at work"):
        download()


def test_the_list_names_every_asset_and_its_commit():
    text = listing()
    for asset in assets.PRESETS["all"]:
        assert asset.repo in text
        assert asset.revision is None or asset.revision in text


def test_wrong_use_is_exit_2(capsys):
    assert cli(["download", "--preset", "13b"]) == 2
    assert "--preset 13b is not known; it is one or more of 7b, pretrain-data" in capsys.readouterr().err
