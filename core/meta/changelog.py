# SPDX-License-Identifier: Apache-2.0
"""Lines of the change log: what consumers of a volume with `ChangeLog` read (format §9, semantics §15.5). Pure."""

from __future__ import annotations

from typing import Final

#: Bytes that are percent-encoded in texts: controls, everything above ASCII, and the marks of the line itself.
_ESCAPED: Final = {
    byte: f"%{byte:02X}" if byte < 32 or byte >= 127 or chr(byte) in ',%()"\\' else chr(byte) for byte in range(256)
}

Argument = int | bool | str | bytes | list[bytes]


def escape(text: bytes) -> str:
    """A name, target or value as it stands in a line."""
    return "".join([_ESCAPED[byte] for byte in text])


def _argument(value: Argument) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return ",".join(map(escape, value))
    return escape(value.encode() if isinstance(value, str) else value)


def line(now_ns: int, op: str, args: tuple[Argument, ...], result: int | str | None, sid: int, number: int) -> bytes:
    """`secs.nnnnnnnnn|OP(args):result|(session,number)`; without `:result` if there is none."""
    secs, ns = divmod(now_ns, 1_000_000_000)
    shown = "" if result is None else f":{result}"
    return f"{secs}.{ns:09d}|{op}({','.join(map(_argument, args))}){shown}|({sid},{number})".encode()
