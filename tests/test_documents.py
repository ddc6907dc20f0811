"""The documents: links resolve, commands exist, and the text keeps the rules of CONTRIBUTING.md."""

import ast
import re
import shlex
import subprocess
from itertools import pairwise

import pytest

from senna.cli import COMMANDS
from tests.helpers.paths import REPOSITORY

DOCUMENTS = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not {".venv", ".venv-serve", "outputs", ".pytest_cache"} & set(path.relative_to(REPOSITORY).parts)
)
SOURCES = sorted((REPOSITORY / "senna").rglob("*.py"))
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name(path):
    return str(path.relative_to(REPOSITORY))


def text_of(path):
    return path.read_text(encoding="utf-8")


def anchors(path):
    """Return the anchors of a document's headings, as the hosting pages make them."""
    headings = re.findall(r"^#+\s+(.*)$", re.sub(r"```.*?```", "", text_of(path), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands_of(path):
    """Return the words of every `sh`, `senna` and `python` command in the code blocks and code spans of a document."""
    text = text_of(path)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + spans
    for line in lines:
        line = re.sub(r"\$\(([^)]*)\)", r" ; \1 ; ", line.replace('"', " "))
        for part in re.split(r"&&|;|\|", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] in ("sh", "senna", "python"):
                yield words


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_internal_links_resolve(path):
    for link in _LINK.findall(text_of(path)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{name(path)}: {link}"
        if anchor:
            assert anchor in anchors(file), f"{name(path)}: {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_name_scripts_commands_and_files_that_exist(path):
    for words in commands_of(path):
        if words[0] == "senna" and len(words) > 1 and words[1][0].isalpha() and words[1].islower():
            assert words[1] in COMMANDS, words
        scripts = [word for word in words[1:] if word.endswith((".sh", ".py"))][:1] if words[0] != "senna" else []
        for script in scripts:
            assert (REPOSITORY / script).is_file(), f"{name(path)}: {words}"
        for flag, value in pairwise(words):
            if flag == "--config" and value.startswith("configs/"):
                assert (REPOSITORY / value).is_file(), f"{name(path)}: {words}"


def test_the_readme_is_short():
    text = text_of(REPOSITORY / "README.md")
    assert len(text.split()) <= 1500
    assert len(text.splitlines()) <= 200


def test_every_document_can_be_reached_from_the_readme():
    reached, to_read = set(), [REPOSITORY / "README.md"]
    while to_read:
        document = to_read.pop()
        if document in reached or document.suffix != ".md" or not document.is_file():
            continue
        reached.add(document)
        links = (link.partition("#")[0] for link in _LINK.findall(text_of(document)))
        to_read += [(document.parent / link).resolve() for link in links if link and "://" not in link]
    assert set(DOCUMENTS) == reached


def docstrings(path):
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield getattr(node, "name", "module"), docstring


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_docstrings_begin_with_a_verb_or_a_noun(path):
    for owner, docstring in docstrings(path):
        assert docstring.split()[0] not in {"Of", "As", "What", "Whether", "Where", "How"}, f"{name(path)}: {owner}"


def test_a_loop_variable_is_named_after_what_it_holds():
    found = [name(path) for path in SOURCES if re.search(r"\bfor one in\b|\btold\b", text_of(path))]
    assert found == []


def test_no_source_file_is_longer_than_400_lines():
    assert [name(path) for path in SOURCES if len(text_of(path).splitlines()) > 400] == []


def test_shell_scripts_have_unix_line_ends():
    tracked = subprocess.run(["git", "ls-files", "*.sh", ".ci/run"], cwd=REPOSITORY, capture_output=True, text=True)
    for script in tracked.stdout.split():
        assert b"\r" not in (REPOSITORY / script).read_bytes()
