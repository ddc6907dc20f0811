"""Several machines through HOSTFILE, with stand-ins on this machine for the programs that reach the others."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from senna.errors import SennaError, UsageError
from senna.launch import hosts
from senna.launch.hosts import main_address, node_script, passed_on, remote_command, remote_shell
from senna.launch.variables import Host, read_hostfile
from tests.helpers.paths import REPOSITORY
from tests.helpers.scripts import SHELLS

TWO = "# the machines\nlocalhost slots=1\n\n127.0.0.1 slots=2  # gpu\n"

STAND_IN = """#!/bin/sh
# Run a command on "another machine", which shares nothing of this environment.
while :; do
    case $1 in -o | -f | -w) [ "$1" = -w ] && set -- "$@" && host=$2; shift 2 ;; -*) shift ;; *) break ;; esac
done
[ "${0##*/}" = pdsh ] || { host=$1; shift; }
printf '%s\\n' "$*" >>"$LOG/commands"
exec env -i HOME="$HOME" PATH=/usr/bin:/bin sh -c "$*"
"""

DUMP = """
import json, os, pathlib
if "LOCAL_WORLD_SIZE" in os.environ:
    pathlib.Path(__file__).with_name("rank-" + os.environ["RANK"]).write_text(json.dumps(dict(os.environ)))
"""

GIVEN = {
    "HF_HOME": "/data/my models",
    "HF_TOKEN": "hf_secret'\"$HOME",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "OMP_NUM_THREADS": "3",
    "OMP_WAIT_POLICY": "passive",
    "CUDA_VISIBLE_DEVICES": "0",
    "https_proxy": "http://user:a%20b@127.0.0.1:8",
}


@pytest.fixture
def hostfile(tmp_path):
    file = tmp_path / "hosts"
    file.write_text(TWO)
    return file


@pytest.fixture
def stand_in(tmp_path):
    """Return a function that installs a stand-in for pdsh or ssh and returns PATH."""

    def install(name):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return install


def free_port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("program", ["ssh", "pdsh"])
def test_every_process_gets_the_variables_and_the_port_on_every_machine(program, hostfile, stand_in, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(DUMP)
    (tmp_path / ".deepspeed_env").write_text("NCCL_DEBUG=INFO\n")
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "RANK", "WORLD_SIZE")},
        **GIVEN, "PATH": stand_in(program), "LOG": str(tmp_path), "MASTER_PORT": port,
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
    }  # fmt: skip
    if program == "ssh" and remote_shell(environment) != "ssh":
        pytest.skip("pdsh is installed here")
    if program == "pdsh":
        environment |= {"https_proxy": "http://127.0.0.1:8"}  # the stand-in does not replace %h
    command = [sys.executable, "-m", "senna", "launch", "hosts", hostfile, "--help"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: senna COMMAND") == 3
    for rank, size in enumerate(("1", "2", "2")):
        found = json.loads((tmp_path / f"rank-{rank}").read_text())
        expected = {name: environment[name] for name in [*GIVEN, "MASTER_PORT", "PYTHONPATH"]}
        assert {name: found[name] for name in expected} == expected
        assert (found["LOCAL_WORLD_SIZE"], found["WORLD_SIZE"], found["NCCL_DEBUG"]) == (size, "3", "INFO")
    commands = (tmp_path / "commands").read_text()
    assert "HF_HOME" in commands
    assert ("hf_secret" in commands) == (program == "pdsh"), "ssh takes secrets on standard input"


def test_a_machine_that_fails_is_named_and_ends_the_run_on_the_others(hostfile, stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", stand_in("ssh"))
    monkeypatch.setenv("LOG", str(tmp_path))
    monkeypatch.setattr(hosts, "remote_shell", lambda environment: "ssh")
    monkeypatch.setattr(hosts, "_GRACE", 0.1)
    watch = "cat >/dev/null"  # as senna.launch.node, which ends with its standard input
    monkeypatch.setattr(hosts, "node_script", lambda words, *_: watch if words[3] == "0" else "exit 7")
    begun = time.monotonic()
    with pytest.raises(SennaError) as error:
        hosts.main([str(hostfile), "train"])
    assert "127.0.0.1" in error.value.message
    assert "7" in error.value.message
    assert "ssh" in error.value.remedy
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leaves_the_machines_the_time_to_write_a_checkpoint(hostfile, stand_in, tmp_path, number):
    node = "read secrets; echo begun; read line; sleep 1; echo saved; read line || echo ended"
    program = f"""
from senna.launch import hosts
hosts.remote_shell, hosts.node_script, hosts._GRACE = (lambda _: "ssh"), (lambda *_: {node!r}), 0.1
raise SystemExit(hosts.main([{str(hostfile)!r}, "train"]))
"""
    environment = {**os.environ, "PATH": stand_in("ssh"), "LOG": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert [run.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    run.send_signal(number)
    time.sleep(1.5)
    run.send_signal(number)  # the second one stops at once
    out, _ = run.communicate(timeout=60)
    assert sorted(out.split()) == ["ended", "ended", "saved", "saved"]
    assert run.returncode == 128 + number


def test_the_end_of_standard_input_stops_the_processes_of_a_machine(tmp_path):
    words = ["--nproc_per_node", "1", "-m", "http.server", "0"]
    node = subprocess.Popen([sys.executable, "-m", "senna.launch.node", "--stdin", *words], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
                            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"})  # fmt: skip
    node.stdin.write("{}\n")
    node.stdin.flush()
    assert any("Serving HTTP" in line for line in iter(node.stdout.readline, ""))
    node.stdin.close()
    assert node.wait(60) != 0


VALUES = [
    "a b",
    "it's",
    'a"b',
    "$(touch pwned)",
    "`touch pwned`",
    "a\ntouch pwned\n",
    "\\n",
    "-n",
    "a;b&c|d",
    "~",
    "*",
    "!x",
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
@pytest.mark.parametrize("program", ["ssh", "pdsh"])
def test_every_value_and_word_arrives_as_it_is(program, value, tmp_path, monkeypatch):
    (tmp_path / value).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / value)
    script = node_script([value], {"HF_HOME": value}, False).replace("exec env", "exec env -i printf '%s\\0' \"$PWD\"")
    command = remote_command(program, "h", script)[-1].replace("%%", "%")
    shells = [subprocess.run([*shell, "-c", command], capture_output=True, text=True, cwd="/") for shell in SHELLS]
    for shell in shells:
        printed = shell.stdout.split("\0")
        assert (printed[0], printed[1], printed[-2]) == (os.getcwd(), f"HF_HOME={value}", value), shell.stderr
    assert not (tmp_path / "pwned").exists()


def test_names_and_values_survive_both_shells(tmp_path):
    script = node_script(["-m", "it's"], {"HF_HOME": 'a "b" $c'}, False).replace(
        "exec env", "exec env -i printf '[%s]' --"
    )
    printed = subprocess.run(remote_command("ssh", "h", script)[-1], shell=True, capture_output=True, text=True).stdout
    assert '[HF_HOME=a "b" $c]' in printed
    assert "[it's]" in printed
    assert remote_command("pdsh", "h", "echo %h")[-1] == "sh -c 'echo %%h'"


def test_variables_of_this_machine_alone_stay_here():
    stay = {"HOME": "/root", "HOSTNAME": "a", "RANK": "0", "TORCHELASTIC_RUN_ID": "1", "SSH_AUTH_SOCK": "s"}
    assert not stay.keys() & passed_on(stay).keys()


def test_the_first_machine_is_reached_by_its_name_or_by_an_address_of_its_own(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", stand_in("ssh"))
    monkeypatch.setenv("LOG", str(tmp_path))
    given = {"MASTER_ADDR": "10.0.0.9"}
    assert main_address([Host("a", 1)], given, "ssh") == "10.0.0.9"
    assert main_address([Host("user@192.0.2.7", 1), Host("192.0.2.8", 1)], {}, "ssh") == "192.0.2.7"
    assert main_address([Host("localhost", 1), Host("127.0.0.1", 1)], {}, "ssh") == "localhost"
    monkeypatch.setattr(hosts, "remote_command", lambda *_: ["echo", "127.0.1.1 192.0.2.5 192.0.2.6"])
    for alias in ("alias-of-ssh.invalid", "localhost"):
        assert main_address([Host(alias, 1), Host("192.0.2.8", 1)], {}, "ssh") == "192.0.2.5"
    monkeypatch.setattr(hosts, "remote_command", lambda *_: ["false"])
    with pytest.raises(SennaError) as error:
        main_address([Host("gone.invalid", 1)], {}, "ssh")
    assert "MASTER_ADDR" in error.value.remedy


def test_a_hostfile_is_read_as_deepspeed_reads_it(hostfile):
    assert read_hostfile(hostfile) == [Host("localhost", 1), Host("127.0.0.1", 2)]


@pytest.mark.parametrize("text", ["", "# none\n", "a\n", "a slots=x\n", "a slots=0\n", "a slots=1\na slots=2\n",
                                  "-oX slots=1\n", b"\xff"])  # fmt: skip
def test_a_wrong_hostfile_is_refused(text, tmp_path):
    file = tmp_path / "hosts"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match="HOSTFILE") as error:
        read_hostfile(file)
    assert error.value.remedy


def test_without_a_program_that_reaches_machines_the_other_way_is_named():
    with pytest.raises(UsageError, match="pdsh or ssh") as error:
        remote_shell({"PATH": "/nowhere"})
    assert "NNODES" in error.value.remedy
