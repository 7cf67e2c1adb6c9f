# SPDX-License-Identifier: Apache-2.0
"""What a data worker has been told to do and what was acknowledged, as lines of a file; and which contents that allows.

Each lane of a worker does one thing after another, so after a kill one operation per lane is in doubt at most: its file
may be as before or as after it, or, for a write in place, a mixture of the two in the range that was written.
Contents come from seeds, so a line is short.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Op = dict[str, Any]
Files = dict[str, bytes]


def content(seed: int, size: int) -> bytes:
    """A third of it compresses."""
    head = random.Random(seed).randbytes(size - size // 3)
    return head + bytes([seed % 251]) * (size // 3)


def apply(files: Files, op: Op) -> None:
    """Change what is known as the operation changes the volume."""
    path = op["path"]
    match op["do"]:
        case "put":
            files[path] = content(op["seed"], op["size"])
        case "write":
            old, data = files.get(path, b""), content(op["seed"], op["size"])
            old = old.ljust(op["at"], b"\0")
            files[path] = old[: op["at"]] + data + old[op["at"] + len(data) :]
        case "truncate":
            files[path] = files[path][: op["length"]].ljust(op["length"], b"\0")
        case "clone":
            files[op["target"]] = files[path]
        case "rename":
            files[op["target"]] = files.pop(path)
        case "unlink":
            del files[path]
        case other:
            raise ValueError(other)


class Expected(NamedTuple):
    """Acknowledged contents, and the operations whose answer never came."""

    files: Files
    doubt: list[Op]

    def paths(self) -> set[str]:
        """Everything that may exist."""
        return set(self.files) | {op[name] for op in self.doubt for name in ("path", "target") if name in op}

    def wrong(self, path: str, got: bytes | None) -> str:
        """What is wrong about what was found under a name; "" if nothing is."""
        before = self.files.get(path)
        if got == before:
            return ""
        for op in self.doubt:
            if path not in (op["path"], op.get("target")):
                continue
            after = dict(self.files)
            apply(after, op)
            if got == after.get(path):
                return ""
            if op["do"] == "write" and got is not None and _mixture(got, before or b"", after[path], op):
                return ""
            return f"{path}: neither as before nor as after {op}: {describe(got)}; was {describe(before)}"
        return f"{path}: acknowledged {describe(before)}, found {describe(got)}"


def _mixture(got: bytes, before: bytes, after: bytes, op: Op) -> bool:
    if not min(len(before), len(after)) <= len(got) <= max(len(before), len(after)):
        return False
    low, high = op["at"], op["at"] + op["size"]
    before, after = before.ljust(len(got), b"\0"), after.ljust(len(got), b"\0")
    if got[:low] != before[:low] or got[high:] != before[high : len(got)]:
        return False
    return all(got[i] in (before[i], after[i]) for i in range(low, min(high, len(got))))


def describe(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes {data[:8].hex()}"


class Journal:
    """Written by the worker; a line is in the kernel before the operation begins, so a killed process loses none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._number = 0

    def begin(self, op: Op) -> int:
        self._number += 1
        self._file.write(json.dumps({"n": self._number, **op}) + "\n")
        return self._number

    def done(self, number: int) -> None:
        self._file.write(json.dumps({"ok": number}) + "\n")

    def failed(self, number: int, error: BaseException) -> None:
        self._file.write(json.dumps({"failed": number, "error": f"{type(error).__name__}: {error}"}) + "\n")


def read_journal(path: Path) -> tuple[Expected, int, list[str]]:
    """(what is expected, how many were acknowledged, errors that were told)."""
    open_ops: dict[int, Op] = {}
    files: Files = {}
    acknowledged = 0
    errors = []
    for line in _lines(path):
        if "ok" in line:
            apply(files, open_ops.pop(line["ok"]))
            acknowledged += 1
        elif "failed" in line:
            errors.append(line["error"])
        else:
            open_ops[line["n"]] = line
    return Expected(files, list(open_ops.values())), acknowledged, errors


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for text in file:
            if text.endswith("\n"):  # else it was cut by the kill, and its operation never began
                yield json.loads(text)
