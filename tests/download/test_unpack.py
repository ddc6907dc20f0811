"""Unpacking: the folder is complete or absent, and an interrupted unpacking is resumed."""

import io
import stat
import zipfile

import pytest

from senna.download.unpack import unpack
from senna.errors import SennaError
from tests.helpers.small_assets import IMAGES, zipped


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(zipped(IMAGES))
    return path


def quiet(total):
    return lambda count: None


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../evil.jpg", "00000/../../evil.jpg", "/evil.jpg", "..\\evil.jpg"])
def test_a_member_outside_the_folder_is_refused_before_anything_is_written(tmp_path, name):
    path = tmp_path / "images.zip"
    path.write_bytes(zipped({"00000/good.jpg": b"good", name: b"evil"}))
    with pytest.raises(SennaError, match="would leave its folder; nothing was unpacked"):
        unpack(path, tmp_path / "images", quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]


def test_a_symbolic_link_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("00000")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    path = tmp_path / "images.zip"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(SennaError, match="would leave its folder"):
        unpack(path, tmp_path / "images", quiet)


def test_an_interrupted_unpacking_keeps_the_good_files_and_replaces_the_others(archive, tmp_path):
    class Stopped(Exception):
        pass

    unpacked = []

    def stop_after_half(total):
        def advance(count):
            unpacked.append(count)
            if len(unpacked) == 20:
                raise Stopped

        return advance

    with pytest.raises(Stopped):
        unpack(archive, tmp_path / "images", stop_after_half)
    partial = tmp_path / "images.partial"
    assert not (tmp_path / "images").exists()
    assert len(tree(partial)) == 20
    names = sorted(tree(partial))
    (partial / names[0]).write_bytes(IMAGES[names[0]][:100])  # as after a kill
    (partial / names[1]).write_bytes(bytes(len(IMAGES[names[1]])))  # as after a power cut
    before = (partial / names[2]).stat().st_mtime_ns
    assert unpack(archive, tmp_path / "images", quiet) == len(IMAGES)
    assert tree(tmp_path / "images") == IMAGES
    assert (tmp_path / "images" / names[2]).stat().st_mtime_ns == before
    assert not partial.exists()


def test_too_little_disk_space_is_refused_before_anything_is_written(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("senna.download.unpack.free_space", lambda _: 1000)
    with pytest.raises(SennaError, match=r"needs 0\.0 GB, and 0\.0 GB are free; make room"):
        unpack(archive, tmp_path / "images", quiet)
    assert not (tmp_path / "images.partial").exists()


def test_a_damaged_zip_is_refused(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(SennaError, match=r"cannot be unpacked.*delete it and run the same command again"):
        unpack(archive, tmp_path / "images", quiet)
