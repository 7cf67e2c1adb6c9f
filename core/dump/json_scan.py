# SPDX-License-Identifier: Apache-2.0
"""A window over a JSON document of any size: the reader walks large containers itself and takes small values whole.

Values are parsed by the standard library's C scanner, straight from the window: whole objects in the time in which
ijson tells its bare events (docs/backup.md). Any layout of white space is accepted.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, Final

#: The C function behind `json.loads`: text and start of a string's contents -> the string, and where it ends.
_string: Final[Callable[[str, int, bool], tuple[str, int]]] = json.decoder.scanstring  # type: ignore[attr-defined]
_WHITE = re.compile(r"[ \t\n\r]*")
_READ: Final = 1 << 20
#: No value of a dump that is taken whole comes near this; it bounds what a damaged file makes us hold.
_LONGEST: Final = 1 << 30
#: An error this close to the end of the window may only mean that the window ends there.
_NEAR: Final = 64


class Malformed(Exception):
    """The text is no JSON document at some place."""


class Scanner:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._value = json.JSONDecoder().raw_decode
        self.text = ""
        self.at = 0
        self.ended = False
        self._before = 0  # characters in front of the window

    def where(self) -> str:
        return f"at character {self._before + self.at}"

    def more(self, size: int = _READ) -> bool:
        """Lengthen the window at its end, dropping what is behind `at`; False at the end of the input."""
        if self.ended:
            return False
        data = self._read(size)
        try:
            fresh = self._decoder.decode(data, not data)
        except UnicodeDecodeError as e:
            raise Malformed(f"bytes that are no UTF-8 after character {self._before + len(self.text)}: {e}") from e
        self.ended = not data
        self._before += self.at
        self.text = self.text[self.at :] + fresh
        self.at = 0
        return bool(fresh) or not self.ended

    def peek(self) -> str:
        """The next character that isn't white space; "" at the end."""
        char = self.text[self.at : self.at + 1]
        if char > " ":
            return char
        while True:
            found = _WHITE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def expect(self, char: str) -> None:
        found = self.peek()
        if found != char:
            what = f"{found!r}" if found else "the end"
            raise Malformed(f"{what} instead of {char!r} {self.where()}")
        self.at += 1

    def skip_if(self, char: str) -> bool:
        if self.peek() != char:
            return False
        self.at += 1
        return True

    def key(self) -> str:
        """A string and the colon after it."""
        self.expect('"')
        size = _READ
        while True:
            try:
                text, end = _string(self.text, self.at, True)
                break
            except json.JSONDecodeError as e:
                size = self._grow(e, size)
        self.at = end
        self.expect(":")
        return text

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        size = _READ
        while True:
            try:
                value, end = self._value(self.text, self.at)
            except json.JSONDecodeError as e:
                size = self._grow(e, size)
                continue
            except RecursionError:
                raise Malformed(f"values nested too deeply {self.where()}") from None
            # A number at the very end may go on behind it.
            if end == len(self.text) and not self.ended:
                self.more()
                continue
            self.at = end
            return value

    def _grow(self, error: json.JSONDecodeError, size: int) -> int:
        """More text, because the value seems to be cut by the window's end; else Malformed."""
        cut = error.pos >= len(self.text) - _NEAR or error.msg.startswith("Unterminated string")
        where = self._before + error.pos
        if not cut or self.ended or len(self.text) - self.at > _LONGEST or not self.more(size):
            raise Malformed(f"{error.msg} at character {where}") from None
        return size * 2

    def members(self) -> Any:
        """Keys of an object, one by one; the caller takes the value after each."""
        self.expect("{")
        if self.skip_if("}"):
            return
        while True:
            yield self.key()
            if self.skip_if("}"):
                return
            self.expect(",")

    def elements(self) -> Any:
        """Values of an array, each whole; null is an empty one."""
        if self.peek() == "n":
            self.value()
            return
        self.expect("[")
        if self.skip_if("]"):
            return
        while True:
            yield self.value()
            if self.skip_if("]"):
                return
            self.expect(",")
