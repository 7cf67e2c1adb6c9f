# SPDX-License-Identifier: Apache-2.0
"""The blocks of docs/s3.md run as they stand against a live gateway, and so does what `sluice serve --demo` prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.process import CACHE, Server, missing, require, wait_for

ROOT = Path(__file__).parents[3]
SECRETS = {"SLUICE_ACCESS_KEY": "docs-user", "SLUICE_SECRET_KEY": "docs-password-of-a-test"}
INSTALL = "tests/tools/install-needs.sh"


def blocks() -> list[tuple[str, str, str]]:
    """(heading, language, code) of each block that is meant to be run."""
    text = (ROOT / "docs/s3.md").read_text()
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        found += [
            (heading, lang, code) for lang, code in re.findall(r"```(sh|python|js)\n(.*?)```", section, re.DOTALL)
        ]
    return found


def environment(**extra: str) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}",
        "AWS_ACCESS_KEY_ID": SECRETS["SLUICE_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": SECRETS["SLUICE_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1", "NODE_PATH": str(CACHE / "npm/node_modules"), **extra,
    }  # fmt: skip


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("docs")
    url = f"sqlite3://{folder}/meta.db"
    sluice = [sys.executable, "-m", "sluicefs"]
    made = subprocess.run(
        [*sluice, "format", url, "docs", "--bucket", str(folder / "o")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    with Server(
        lambda port, _: [*sluice, "gateway", url, f"127.0.0.1:{port}", "--multi-buckets"],
        env={**SECRETS, "PYTHONPATH": str(ROOT)}, name="sluice gateway",
    ) as server:  # fmt: skip
        yield f"http://127.0.0.1:{server.port}"


def command_for(heading: str, language: str, code: str) -> list[str]:
    if language == "python":
        return [sys.executable, "-c", code]
    if language == "js":
        if not (CACHE / "npm/node_modules/@aws-sdk/client-s3").is_dir():
            missing("@aws-sdk/client-s3", INSTALL)
        return [require("node", INSTALL), "-e", code]
    require(heading, INSTALL)
    return ["bash", "-euo", "pipefail", "-c", code]


@pytest.mark.parametrize(("heading", "language", "code"), blocks(), ids=[block[0] for block in blocks()])
def test_a_block_of_the_document_runs_as_it_stands(
    endpoint: str, tmp_path: Path, heading: str, language: str, code: str
) -> None:
    done = subprocess.run(
        command_for(heading, language, code), cwd=tmp_path, env=environment(ENDPOINT=endpoint, HOME=str(tmp_path)),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello" in done.stdout


def test_every_client_of_the_document_is_there() -> None:
    assert [b[0] for b in blocks()] == ["aws", "boto3", "s3cmd", "s5cmd", "rclone", "mc", "AWS SDK for JavaScript"]


class Demo:
    """`sluice serve --demo` in a folder, as `make serve` starts it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sluicefs", "serve", "--demo", str(folder), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.text = ""
        assert self.process.stdout
        for line in self.process.stdout:
            self.text += line
            if "Ctrl-C stops it" in line:
                break

    @property
    def endpoint(self) -> str:
        found = re.search(r"endpoint +(\S+)", self.text)
        assert found, self.text
        return found[1]

    def stop(self) -> None:
        """As Ctrl-C does."""
        import signal

        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout
        self.text += self.process.stdout.read()
        assert self.process.wait(30) == 0, self.text
        assert "Traceback" not in self.text

    def run(self, pattern: str, cwd: Path) -> subprocess.CompletedProcess[Any]:
        """The printed lines that match, in one shell, together with the export line."""
        lines = [line.strip() for line in self.text.splitlines()]
        wanted = [line for line in lines if line.startswith("export") or re.match(pattern, line)]
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(wanted)], cwd=cwd, capture_output=True, text=True, timeout=120,
            env=environment(HOME=str(cwd)),
        )  # fmt: skip


def test_the_demo_starts_anywhere_prints_lines_that_work_and_finds_its_data_again(tmp_path: Path) -> None:
    for program in ("aws", "mc", "rclone"):
        require(program, INSTALL)
    (tmp_path / "README.md").write_text("hello from the demo\n")
    demo = Demo(tmp_path / "demo")
    try:
        assert "(new)" in demo.text
        for pattern in (r"aws ", r"mc ", r"rclone "):
            done = demo.run(pattern, tmp_path)
            assert done.returncode == 0, done.stdout + done.stderr
        second = Demo(tmp_path / "other")  # the first port is taken now
        assert second.endpoint != demo.endpoint
        second.stop()
    finally:
        demo.stop()
    assert "the data stays in" in demo.text
    credentials = tmp_path / "demo/credentials"
    assert credentials.stat().st_mode & 0o777 == 0o600
    again = Demo(tmp_path / "demo")
    try:
        assert "(found again)" in again.text
        assert credentials.read_text().split("=")[1].split("\n")[0] in again.text
        done = again.run(r"aws .* s3 ls s3", tmp_path)
        assert "README.md" in done.stdout
    finally:
        again.stop()


def test_a_gateway_without_keys_does_not_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sluicefs", "gateway", f"sqlite3://{tmp_path}/x.db", "127.0.0.1:0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "SLUICE_ACCESS_KEY" in done.stderr


def test_a_killed_demo_leaves_a_volume_that_opens(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "demo", "--workers", "1")
    demo.process.kill()
    demo.process.wait()
    again = Demo(tmp_path / "demo", "--workers", "1")
    wait_for(lambda: "(found again)" in again.text, what="the volume")
    again.stop()
