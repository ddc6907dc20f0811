"""The lines for `eval "$(senna download ...)"`, in every sh that is installed: after a success, a failure and a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from senna.download import assets
from senna.download.command import main
from senna.download.shell import exports
from tests.helpers.scripts import SHELLS

OLD = "MODEL_PATH=old VISION_TOWER=old DATA=old; export MODEL_PATH VISION_TOWER DATA\n"
USE = f'{OLD}eval "$1" && echo evaluated; printf "[%s]" "${{MODEL_PATH-}}" "${{VISION_TOWER-}}" "${{DATA-}}"'


def evaluate(text):
    """Return what a shell prints that has old values, evaluates a text and shows the values; the same in every shell."""
    shells = [subprocess.run([*shell, "-c", USE, "sh", text], capture_output=True) for shell in SHELLS]
    assert len({shell.stdout for shell in shells}) == 1
    assert not any(shell.stderr for shell in shells)
    return os.fsdecode(shells[0].stdout)


def run_senna(*flags, **environment):
    command = [sys.executable, "-m", "senna", "download", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_after_a_wrong_flag_no_variable_has_an_old_value():
    done = run_senna("--prset", "7b")
    assert done.returncode == 2
    assert evaluate(done.stdout) == "[][][]"


@pytest.mark.parametrize(("preset", "left"), [("7b", "[][][old]"), ("pretrain-data", "[old][old][]")])
def test_after_a_failed_download_its_variables_have_no_old_values(preset, left, tmp_path):
    done = run_senna("--endpoint", "http://127.0.0.1:1", "--out", tmp_path, "--preset", preset)
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert evaluate(done.stdout) == left


def test_after_a_crash_no_variable_has_an_old_value(tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise OSError('broken')")
    done = run_senna("--out", tmp_path, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert "broken" in done.stderr
    assert evaluate(done.stdout) == "[][][old]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_after_a_signal_no_variable_has_an_old_value(hub, tmp_path, subprocess_environment, number):
    hub.pause = 0.2
    command = [sys.executable, "-m", "senna", "download", "--endpoint", hub.endpoint, "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, env=subprocess_environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 30
    while not hub.sent and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode in (-number, 128 + number)
    assert evaluate(printed) == ("evaluated\n" if number == signal.SIGKILL else "") + "[][][old]"


def test_an_interrupted_shell_script_goes_no_further(tmp_path):
    failed = run_senna("--endpoint", "http://127.0.0.1:1", "--out", tmp_path).stdout
    for shell in SHELLS:
        script = f'set -eu; {OLD} eval "$1"; echo "went on"'
        done = subprocess.run([*shell, "-c", script, "sh", failed], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")


def test_help_and_the_list_clear_nothing(capsys):
    assert main(["--list"]) == 0
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "unset" not in capsys.readouterr().out


NAMES = [
    "a b",
    "it's",
    'a"b',
    "$(touch pwned)",
    "`touch pwned`",
    "-n",
    "a\ntouch pwned\n",
    "\rtouch pwned",
    "#a",
    "é\udcff",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_path_escapes_its_quotes_or_its_comment(name, tmp_path, capfdbinary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("senna.download.command._download", lambda *_: None)
    assert main([f"--out={name}", "--preset", "all"]) == 0
    printed = os.fsdecode(capfdbinary.readouterr().out)
    out = Path(name).resolve()
    assert evaluate(printed) == (
        f"evaluated\n[{out}/vicuna-7b-v1.5][{out}/clip-vit-large-patch14-336]"
        f"[{out}/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json]"
    )
    assert not list(tmp_path.glob("**/pwned"))
    assert list(tmp_path.iterdir()) == []


def test_every_line_of_a_comment_begins_with_a_number_sign():
    lines = exports(assets.PRESETS["all"], Path("/a\nb")).splitlines()
    second = lines.index("# export MODEL_PATH='/a")
    assert lines[second + 1] == "# b/Senna'"
