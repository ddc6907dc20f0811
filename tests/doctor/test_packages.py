"""Checks of optional packages in a separate process."""

import os

import pytest

from senna.doctor.packages import PACKAGES, try_package
from senna.doctor.worker import Worker


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes a package with a name and content, which is imported instead of an installed one."""

    def write(name: str, content: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(content)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return write


def results(*topics):
    return {finding.topic: finding for finding in Worker(list(topics), []).results()}


def test_a_package_that_crashes_python_is_reported_and_later_packages_are_still_checked(package):
    package("gradio", "import os; os.abort()")
    found = results("gradio", "pycocoevalcap")
    assert found["gradio"].level == "fail"
    assert found["gradio"].message == "crashed Python (SIGABRT)"
    assert found["pycocoevalcap"].level == "ok"


def test_a_package_that_imports_but_fails_is_reported_with_a_reinstall_command(package):
    pytest.importorskip("gradio", reason="gradio is not installed")
    package(
        "gradio", "print('noise on standard output')\nclass Blocks:\n    def __init__(self): raise OSError('no port')\n"
    )
    found = results("gradio")["gradio"]
    assert found.level == "warn"
    assert "does not work: OSError: no port" in found.message
    assert found.remedy.startswith("pip install --force-reinstall --no-deps gradio==")


@pytest.mark.parametrize(("level", "expected"), [("warn", "ok"), ("fail", "fail")])
def test_a_missing_package_fails_only_if_it_is_required(monkeypatch, level, expected):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in PACKAGES.items():
        found = try_package(name, "cpu", level)
        assert found.level == expected
        assert package.purpose in found.message
        assert "pip install -c constraints.txt" in found.remedy


def test_a_required_package_is_reported_with_the_flag_that_requires_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = try_package("bitsandbytes", "cpu", "fail", required_by="--bits 4")
    assert found.required_by == "--bits 4"
    assert "required by --bits 4" in found.message
    assert "without --bits 4" in found.remedy


@pytest.mark.parametrize("name", ["bitsandbytes", "pycocoevalcap", "tensorboard"])
def test_an_installed_package_works(name):
    pytest.importorskip(PACKAGES[name].module, reason=f"{name} is not installed")
    assert try_package(name, "cpu").level == "ok"
