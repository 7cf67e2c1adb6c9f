# SPDX-License-Identifier: Apache-2.0
"""What a command prints: text for people, one JSON document for scripts (`--output json`), errors in one line.

Results go to stdout, everything else to stderr. Colours and progress only where a person looks on (cli §1.4).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from core.log import mask


class Settings:
    """Global options of this process, filled while the command line is parsed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.output = "text"
        self.level = "info"
        self.log_id = ""
        self.log_format = "text"
        self.log_file: str | None = None
        self.no_color = False

    @property
    def debug(self) -> bool:
        return self.level in ("debug", "trace")

    @property
    def json(self) -> bool:
        return self.output == "json"

    @property
    def quiet(self) -> bool:
        return self.level in ("warn", "warning", "error", "fatal", "panic")


settings = Settings()


def show(document: Any, text: str | None = None) -> None:
    """Print a result: `text` for people, the document with --output json (or when there is no text)."""
    if settings.json or text is None:
        print(json.dumps(document, ensure_ascii=False, indent=2, default=_plain))
    elif text:
        print(text)


def note(text: str) -> None:
    """Something a person wants to know and a script doesn't."""
    if not settings.quiet and not settings.json:
        print(mask(text), file=sys.stderr)


def report_error(text: str, error: BaseException | None = None) -> int:
    """One line with cause and next step on stderr (a JSON object with --output json); the exit code."""
    line = " ".join(mask(text).split())
    if settings.json:
        document = {"error": {"message": line, "type": type(error).__name__ if error else "Error"}}
        code = getattr(error, "code", None)
        if isinstance(code, str):
            document["error"]["code"] = code
        print(json.dumps(document, ensure_ascii=False), file=sys.stderr)
    else:
        start = "\033[31merror:\033[0m" if coloured() else "error:"
        print(f"{start} {line}", file=sys.stderr)
    if settings.debug and error is not None:
        print(mask("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    return 1


def coloured() -> bool:
    return sys.stderr.isatty() and not settings.no_color and "NO_COLOR" not in os.environ


def attended() -> bool:
    """A person looks on: progress may be shown."""
    return (
        sys.stdout.isatty()
        and sys.stderr.isatty()
        and not settings.quiet
        and not settings.json
        and os.environ.get("DISPLAY_PROGRESSBAR", "").lower() != "false"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An ASCII box: `+---+`, the header first (cli §1.4)."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule]
    for number, row in enumerate(cells):
        lines.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            lines.append(rule)
    lines.append(rule)
    return "\n".join(lines)


def text_of(name: bytes) -> str:
    """A file name for people and JSON; bytes that are no UTF-8 survive as backslash escapes."""
    return name.decode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    return text_of(value) if isinstance(value, bytes) else str(value)
