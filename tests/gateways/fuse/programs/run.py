# SPDX-License-Identifier: Apache-2.0
"""Run a program to its end, and show what it said when that end is bad."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What a failing program said last; more than this hides the cause in a test's report.
SHOWN = 6000

_CLEAN = {
    "LC_ALL": "C.UTF-8",
    # git: no user or system settings, a name for commits, and no gc behind our back.
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
}  # fmt: skip


def run(
    *command: str | Path,
    cwd: Path | None = None,
    timeout_s: float = 1200,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    allowed: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """The finished program, its output as text. Any exit status outside `allowed` is an AssertionError with the
    end of what it said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, timeout=timeout_s, input=stdin, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **_CLEAN, **(env or {})}, check=False,
        stdin=None if stdin is not None else subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode not in allowed:
        shown = " ".join(str(part) for part in command)
        raise AssertionError(f"{shown}\nended with {done.returncode} in {cwd}:\n{done.stdout[-SHOWN:]}")
    return done
