"""A package is tried by a piece of its work, in a process that it may crash."""

import os

import pytest

from senna.doctor.packages import PACKAGES, try_package
from senna.doctor.worker import Worker


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a package of that name and content before the installed ones."""

    def write(name: str, content: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(content)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return write


def results(*topics):
    return {finding.topic: finding for finding in Worker(list(topics), []).results()}


def test_a_package_that_crashes_python_is_told_and_those_after_it_are_tried_all_the_same(package):
    package("gradio", "import os; os.abort()")
    found = results("gradio", "pycocoevalcap")
    assert found["gradio"].level == "fail"
    assert found["gradio"].says == "crashed Python (SIGABRT)"
    assert found["pycocoevalcap"].level == "ok"


def test_a_package_that_imports_but_does_not_work_is_told_with_the_line_that_mends_it(package):
    pytest.importorskip("gradio", reason="gradio is not installed")
    package(
        "gradio", "print('noise on standard output')\nclass Blocks:\n    def __init__(self): raise OSError('no port')\n"
    )
    found = results("gradio")["gradio"]
    assert found.level == "warn"
    assert "does not work: OSError: no port" in found.says
    assert found.remedy.startswith("pip install --force-reinstall --no-deps gradio==")


@pytest.mark.parametrize(("level", "told"), [("warn", "ok"), ("fail", "fail")])
def test_a_package_that_is_not_installed_is_a_fail_only_where_it_is_needed(monkeypatch, level, told):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in PACKAGES.items():
        found = try_package(name, "cpu", level)
        assert found.level == told
        assert package.purpose in found.says
        assert "pip install -c constraints.txt" in found.remedy


@pytest.mark.parametrize("name", ["bitsandbytes", "pycocoevalcap", "tensorboard"])
def test_an_installed_package_does_its_work(name):
    pytest.importorskip(PACKAGES[name].module, reason=f"{name} is not installed")
    assert try_package(name, "cpu").level == "ok"
