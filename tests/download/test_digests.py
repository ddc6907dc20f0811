"""Downloads are compared with digests that do not come from the mirror that sends the files."""

import hashlib
import json
import shutil

import pytest

from senna.download import assets, digests
from senna.errors import SennaError, UsageError
from tests.helpers.small_assets import BIG, noise

FIRST = "pytorch_model-00001-of-00002.bin"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "assets"


@pytest.fixture
def vicuna(hub):
    return hub.repositories[assets.VICUNA.repo]


def lock_of(asset, out):
    return json.loads((out / f"{asset.name}.lock.json").read_text())


def test_the_digests_of_the_first_download_are_kept_and_compared_with_those_of_another_mirror(
    download, hub, vicuna, out, capsys
):
    assert download() == 0
    lock, listed = lock_of(assets.VICUNA, out), vicuna.info("")["siblings"]
    states = {item["rfilename"]: item.get("lfs", {}).get("sha256", item["blobId"]) for item in listed}
    assert (lock["repository"], lock["revision"]) == (assets.VICUNA.repo, assets.VICUNA.revision)
    assert lock["files"] == {name: states[name] for name in states if name not in ("README.md", ".gitattributes")}
    assert f"8 of 8 files are verified only by hashes that {hub.endpoint} states itself" in capsys.readouterr().err
    shutil.rmtree(out / "vicuna-7b-v1.5")
    vicuna.files[FIRST] = noise(BIG, 99)  # both the file and its stated hash
    hub.sent.clear()
    with pytest.raises(UsageError, match=rf"{FIRST}.*lock\.json has .* from the first download.*nothing was") as error:
        download()
    assert "another mirror" in error.value.remedy
    assert not hub.sent
    vicuna.files[FIRST] = noise(BIG, 1)
    assert download() == 0
    assert "verified only by hashes" not in capsys.readouterr().err


def test_digests_of_an_interrupted_download_are_kept_too(download, hub, vicuna, out):
    hub.cuts[FIRST] = [70_000, *[0] * 6]
    with pytest.raises(SennaError):
        download()
    assert set(lock_of(assets.VICUNA, out)["files"]) == {"config.json", "generation_config.json"}
    vicuna.files["config.json"] = b'{"model_type": "other"}'
    with pytest.raises(UsageError, match=r"config\.json.*from the first download"):
        download()


def test_a_digest_of_the_package_is_compared_with_what_the_mirror_states(
    download, hub, vicuna, out, monkeypatch, capsys
):
    known = {"tokenizer.model": "0" * 64}
    monkeypatch.setattr(digests, "PACKAGED", {f"{assets.VICUNA.repo}@{assets.VICUNA.revision}": known})
    with pytest.raises(UsageError, match=r"tokenizer\.model.*this package knows 000000000000"):
        download()
    assert not out.exists()
    known["tokenizer.model"] = hashlib.sha256(vicuna.files["tokenizer.model"]).hexdigest()
    assert download() == 0
    assert "7 of 8 files are verified only by hashes" in capsys.readouterr().err


def test_packaged_digests_belong_to_pinned_commits_and_are_sha256():
    pinned = {f"{asset.repo}@{asset.revision}" for asset in assets.PRESETS["all"] if asset.revision}
    assert set(digests.PACKAGED) <= pinned
    assert all(len(bytes.fromhex(digest)) == 32 for files in digests.PACKAGED.values() for digest in files.values())


def test_a_complete_download_of_an_earlier_version_gets_a_lock_file_without_network(download, hub, out):
    assert download() == 0
    lock = lock_of(assets.VICUNA, out)
    (out / "vicuna-7b-v1.5.lock.json").unlink()
    hub.close()
    assert download() == 0
    assert lock_of(assets.VICUNA, out) == lock


def test_a_damaged_lock_file_is_reported(download, out):
    out.mkdir()
    (out / "vicuna-7b-v1.5.lock.json").write_text("{")
    with pytest.raises(UsageError, match=r"vicuna-7b-v1\.5\.lock\.json is damaged"):
        download()


def test_a_digest_that_is_a_path_is_refused(download, vicuna, monkeypatch):
    monkeypatch.setattr("tests.helpers.loopback_hub.git_blob", lambda content: "../../../evil")
    with pytest.raises(UsageError, match="does not answer like a hub"):
        download()
