# SPDX-License-Identifier: Apache-2.0
"""What a holder is told when it starts: one JSON document in a memory file whose descriptor it inherits.

Neither the document nor anything secret in it (a worker's environment) ever stands on a command line. Standard library
only.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple


class Program(NamedTuple):
    """How a worker is started. argv[0] is the interpreter's path."""

    argv: list[str]
    env: dict[str, str]
    cwd: str = "/"
    version: str = ""  # for people


class Spec(NamedTuple):
    mount_point: str
    device: str  # MAJOR:MINOR of the mount
    fuse_fd: int
    table_fd: int
    program: Program
    identity: dict[str, Any]  # what a replacement must agree with: volume, options of the kernel
    ready_fd: int = -1  # who started us reads here: one JSON line {"ready": true} or {"error": text}
    log_path: str = ""  # "": standard error
    hang_s: float = 30.0  # a worker that doesn't answer for so long is stuck
    hand_over_s: float = 60.0  # time to finish what runs when it is replaced
    stop_s: float = 30.0  # time to flush when it is told to end


def dump(spec: Spec) -> int:
    """An inheritable descriptor of the document."""
    fd = os.memfd_create("sluicefs-spec", 0)
    raw = json.dumps({**spec._asdict(), "program": spec.program._asdict()}).encode()
    with open(os.dup(fd), "wb") as file:
        file.write(raw)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def load(fd: int) -> Spec:
    """Read and close it."""
    with open(fd, "rb") as file:
        document = json.load(file)
    return Spec(**{**document, "program": program(document["program"])})


def program(document: dict[str, Any]) -> Program:
    return Program(**document)
