"""Code in a model folder is never run, and nobody is asked whether to run it."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from senna.convert.captioners.llava import LlavaCaptioner
from senna.errors import UsageError
from senna.model import load_model
from senna.model.tokenizer import load_tokenizer
from tests.helpers.paths import REPOSITORY
from tests.helpers.small_tokenizers import llama_folder

TAKES_IT = {"from_pretrained", "from_config", "pipeline", "load_custom_generate"}
SOURCES = sorted(path for folder in ("senna", "scripts") for path in (REPOSITORY / folder).rglob("*.py"))


def calls(path: Path) -> list[ast.Call]:
    """Return the calls of a file that take ``trust_remote_code`` in transformers."""
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in found]
    own = "ModelShape"  # a class of ours, whose from_config reads no file
    return [
        call
        for call, name in zip(found, names, strict=True)
        if name in TAKES_IT and getattr(getattr(call.func, "value", None), "id", "") != own
    ]


def test_every_call_that_could_run_code_of_a_model_folder_forbids_it():
    found = [(path, call) for path in SOURCES for call in calls(path)]
    assert len(found) >= 10
    for path, call in found:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("trust_remote_code") == "False", f"{path}:{call.lineno}"


@pytest.fixture
def no_answer(monkeypatch):
    """Answer every question with yes, and record that it was asked."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    return asked


def write_code(folder: Path, ran: Path, **classes: object) -> Path:
    """Give a folder a module that would create the file ``ran``, and name it in the folder's JSON files."""
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    for name, auto_map in classes.items():
        path = folder / f"{name}.json"
        values = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**values, "auto_map": auto_map}))
    return folder


def test_the_code_of_a_tokenizer_is_not_run(tmp_path, no_answer):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    llama_folder(folder)
    write_code(folder, ran, tokenizer_config={"AutoTokenizer": [None, "evil.Evil"]})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for tokenizer_class in (settings["tokenizer_class"], "Evil"):
        settings["tokenizer_class"] = tokenizer_class
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        try:
            load_tokenizer(folder)
        except UsageError:
            assert tokenizer_class == "Evil"
        assert not ran.exists()
        assert not no_answer


def test_the_code_of_a_model_is_not_run(tmp_path, no_answer, golden):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(golden / "model_v320", folder)
    shutil.copytree(golden / "clip_tiny", tmp_path / "clip_tiny")
    shutil.copy(golden / "own_tokenizer" / "tokenizer.model", folder)
    shutil.copy(golden / "own_tokenizer" / "tokenizer_config.json", folder)
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoImageProcessor")
    write_code(folder, ran, config=dict.fromkeys(names, "evil.Evil"))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text((folder / "evil.py").read_text())
    load_model(str(folder), device="cpu")
    assert not ran.exists()
    assert not no_answer


def test_the_code_of_a_captioner_is_not_run(tmp_path, no_answer):
    folder, ran = tmp_path / "captioner", tmp_path / "ran"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "evil"}))
    write_code(folder, ran, config={"AutoConfig": "evil.Evil"})
    with pytest.raises(UsageError, match="cannot be opened"):
        _ = LlavaCaptioner(str(folder))._config
    assert not ran.exists()
    assert not no_answer
