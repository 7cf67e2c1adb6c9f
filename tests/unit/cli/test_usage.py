# SPDX-License-Identifier: Apache-2.0
"""What all commands share: order of options, exit codes, one-line errors, JSON, secrets (cli §1)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sluicefs import __version__
from sluicefs.cli import COMMANDS, cli
from sluicefs.privacy import strip_secrets
from tests.servers.process import Server, require, wait_for
from tests.unit.cli.conftest import Process, Sluice


def test_the_version_is_printed_in_both_forms(sluice: Sluice) -> None:
    assert __version__ in sluice("version").out
    assert sluice("version").out == sluice("--version").out == sluice("-V").out
    assert sluice("--output", "json", "version").json["version"] == __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(sluice: Sluice, name: str) -> None:
    shown = sluice(name, "--help")
    assert shown.code == 0 and shown.out.startswith(f"Usage: sluice {name}")
    assert "--output" in shown.out


def test_each_option_reads_the_environment_variable_of_its_name() -> None:
    import click

    allowed = {"-y", "--yes", "-r", "-R", "-l", "-p", "-i", "-s", "-f", "--access-key", "--secret-key",
               "--session-token", "--encrypt-secret"}  # fmt: skip
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command
        for param in command.params:
            if isinstance(param, click.Option) and param.envvar and not allowed.intersection(param.opts):
                names = [param.envvar] if isinstance(param.envvar, str) else param.envvar
                assert any(n.startswith("SLUICE_") for n in names), (name, param.opts)
                assert not {"SLUICE_ACCESS_KEY", "SLUICE_SECRET_KEY"} & set(names), "those are the gateway's"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nothing",), "No such command 'nothing'"),
        (("status",), "Missing argument 'META-URL'"),
        (("status", "a", "b"), "unexpected extra argument"),
        (("status", "--nothing", "x"), "No such option"),
        (("format", "sqlite3:///x", "demo", "--capacity", "much"), "is no size"),
        (("gateway", "sqlite3:///x", "9000x"), "has no port"),
        (("format", "sqlite3:///nowhere/x.db", "Bad_Name"), "is no volume name"),
        (("status", "oracle://h/d"), "oracle"),
        (("status", "sqlite3:///nowhere/at/all/x.db"), "/nowhere/at/all/x.db"),
        (("config", "redis://127.0.0.1:1/0"), "127.0.0.1:1"),
    ],
)
def test_an_error_is_one_line_and_exit_one(sluice: Sluice, arguments: tuple[str, ...], words: str) -> None:
    failed = sluice(*arguments)
    assert failed.code == 1
    *logged, error = failed.err.splitlines()
    assert error.startswith("error: ") and words in error
    assert all("<WARNING>" in line for line in logged), "a server that is away is tried again, and the log says so"
    assert "Traceback" not in failed.err


def test_debug_adds_the_traceback_and_json_makes_the_error_a_document(sluice: Sluice) -> None:
    assert "Traceback" in sluice("status", "sqlite3:///nowhere/x.db", "--debug").err
    failed = sluice("--output", "json", "status", "sqlite3:///nowhere/x.db")
    assert failed.code == 1 and json.loads(failed.err)["error"]["message"]


def test_a_missing_volume_names_the_next_step(sluice: Sluice, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for arguments in (("status",), ("config",), ("ls",)):
        failed = sluice(*arguments, f"sqlite3://{tmp_path}/empty.db")
        assert failed.code == 1 and "sluice format" in failed.err


def test_options_come_from_flag_then_environment_then_file(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    settings = tmp_path / "sluice.toml"
    settings.write_text('trash-days = 5\n[config]\ninodes = 77\ncapacity = "1G"\n')
    env = {"SLUICE_CONFIG": str(settings), "SLUICE_INODES": "88"}
    shown = sluice("config", volume, "--capacity", "2G", env=env)
    assert shown.code == 0, shown.err
    after = sluice("config", volume).json
    assert (after["TrashDays"], after["Inodes"], after["Capacity"]) == (5, 88, 2 << 30)
    (tmp_path / "bad.toml").write_text("= nonsense")
    assert "is no TOML" in sluice("config", "--config", tmp_path / "bad.toml", volume).err


def test_a_closed_pipe_is_no_error(sluice: Sluice, volume: str) -> None:
    import subprocess
    import sys

    from tests.unit.cli.conftest import environment

    process = subprocess.Popen(
        [sys.executable, "-m", "sluicefs", "status", volume], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(),
    )  # fmt: skip
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read()
    process.wait()
    assert b"Traceback" not in errors and b"BrokenPipe" not in errors


@pytest.mark.parametrize(
    "given, kept, moved",
    [
        (["status", "redis://:s3cret@h:1/0"], ["status", "redis://h:1/0"], {"META_PASSWORD": "s3cret"}),
        (["status", "redis://me:p%40ss@h/0"], ["status", "redis://me@h/0"], {"META_PASSWORD": "p@ss"}),
        (["gateway", "me:pw@h:1/0", ":9000"], ["gateway", "me@h:1/0", ":9000"], {"META_PASSWORD": "pw"}),
        (["config", "sqlite3:///x", "--secret-key", "k"], ["config", "sqlite3:///x"], {"SECRET_KEY": "k"}),
        (["format", "--session-token=t", "u", "n"], ["format", "u", "n"], {"SESSION_TOKEN": "t"}),
        (["cp", "sqlite3:///a:b@c", "-", ":/x:y@z"], ["cp", "sqlite3:///a:b@c", "-", ":/x:y@z"], {}),
        (["cp", "u", "--", "redis://:p@h/0"], ["cp", "u", "--", "redis://:p@h/0"], {}),
        (["config", "u", "--secret-key"], ["config", "u", "--secret-key"], {}),
    ],
)
def test_secrets_leave_the_arguments(given: list[str], kept: list[str], moved: dict[str, str]) -> None:
    assert strip_secrets(given) == (kept, moved)


def test_no_process_shows_a_password_and_the_volume_opens_with_it(sluice: Sluice, tmp_path: Path) -> None:
    program = require("redis-server", "apt-get install redis-server")
    password = "tr0ub4dor-and-3"

    def command(port: int, folder: Path) -> list[str]:
        (folder / "redis.conf").write_text(f"requirepass {password}\nsave ''\n".replace("''", '""'))
        return [program, str(folder / "redis.conf"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]

    keys = {"SLUICE_ACCESS_KEY": "admin", "SLUICE_SECRET_KEY": "password-of-admin"}
    with Server(command, name="redis-server") as redis:
        url = f"redis://:{password}@127.0.0.1:{redis.port}/1"
        made = sluice("format", url, "demo", "--bucket", tmp_path / "o")
        assert made.code == 0, made.err
        assert password not in made.out + made.err
        wrong = sluice("status", f"redis://:wrong-password@127.0.0.1:{redis.port}/1")
        assert wrong.code == 1 and "wrong-password" not in wrong.err
        bare = f"redis://127.0.0.1:{redis.port}/1"
        assert sluice("status", bare, env={"META_PASSWORD": password}).code == 0
        (tmp_path / "pw").write_text(password + "\n")
        assert sluice("status", bare, env={"META_PASSWORD_FILE": str(tmp_path / "pw")}).code == 0
        with Process("gateway", url, "127.0.0.1:{port}", env=keys) as gateway:
            shown = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if _readable(p)]
            assert not any(password.encode() in line for line in shown)
            sessions = sluice("status", url).json["Sessions"]
            assert [s["MountPoint"] for s in sessions] == ["s3gateway"] * len(sessions) and sessions
            one = sluice("status", url, "-s", sessions[0]["Sid"]).json
            assert one["Sustained"] == [] and one["Sid"] == sessions[0]["Sid"]
            assert password not in gateway.log_text() and keys["SLUICE_SECRET_KEY"] not in gateway.log_text()
            gateway.stop()
        wait_for(lambda: sluice("status", url).json["Sessions"] == [], what="end of the gateway's sessions")


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_the_command_is_installed_under_its_name() -> None:
    import sys

    found = shutil.which("sluice", path=str(Path(sys.executable).parent))
    assert found, "pip install -e . makes it"
