# SPDX-License-Identifier: Apache-2.0
"""The blocks of docs/webdav.md run as they stand against a live door, and every option it names exists."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.gateways.webdav.door import PASSWORD, ROOT, USER, Door
from tests.servers.process import CACHE, missing, require

INSTALL = "tests/tools/install-needs.sh"
TEXT = (ROOT / "docs/webdav.md").read_text()


def blocks() -> list[tuple[str, str, str]]:
    """(heading, language, code) of each block that is meant to be run."""
    found = []
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        found += [(heading, lang, code) for lang, code in re.findall(r"```(sh|js)\n(.*?)```", section, re.DOTALL)]
    return found


def command_for(heading: str, language: str, code: str) -> list[str]:
    if language == "js":
        if not (CACHE / "npm/node_modules/webdav").is_dir():
            missing("webdav of npm", INSTALL)
        return [require("node", INSTALL), "-e", code]
    require(heading, INSTALL)
    return ["bash", "-euo", "pipefail", "-c", code]


@pytest.mark.parametrize(("heading", "language", "code"), blocks(), ids=[block[0] for block in blocks()])
def test_a_block_of_the_document_runs_as_it_stands(
    door: Door, tmp_path: Path, heading: str, language: str, code: str
) -> None:
    environment = {
        **os.environ, "PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}", "NODE_PATH": str(CACHE / "npm/node_modules"),
        "HOME": str(tmp_path), "URL": door.url, "DAV_USER": USER, "DAV_PASSWORD": PASSWORD, "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    done = subprocess.run(
        command_for(heading, language, code), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello" in done.stdout and "failed" not in done.stdout.lower(), done.stdout


def test_every_client_of_the_document_is_there() -> None:
    assert [block[0] for block in blocks()] == ["curl", "rclone", "cadaver", "webdav of npm"]


def test_every_option_of_the_document_exists() -> None:
    import click

    from sluicefs.cli import cli

    known: set[str] = set()
    for name in ("webdav", "serve", "format"):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known |= {text for param in command.params for text in (*param.opts, *param.secondary_opts)}
    prose = re.sub(r"```(sh|js)\n.*?```", "", TEXT, flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w-])(--[a-zA-Z][\w-]+)", prose))
    assert named - known <= {"--help"}, "the document names options that don't exist"


def test_every_option_has_a_word_in_the_document_or_speaks_for_itself() -> None:
    import click

    from sluicefs.cli import cli

    command = cli.get_command(click.Context(cli), "webdav")
    assert command is not None
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden and param.expose_value:
            assert param.help, param.opts
