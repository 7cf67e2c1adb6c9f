# SPDX-License-Identifier: Apache-2.0
"""A file as plain bytes: what every operation of the tester has to leave behind."""

from __future__ import annotations


class Model:
    """Bytes from `origin` on; what lies before is a hole that no operation touches. Offsets count from `origin`."""

    def __init__(self) -> None:
        self.data = bytearray()

    def __len__(self) -> int:
        return len(self.data)

    def resize(self, size: int) -> None:
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))

    def write(self, offset: int, data: bytes) -> None:
        self.resize(max(len(self.data), offset + len(data)))
        self.data[offset : offset + len(data)] = data

    def zero(self, offset: int, size: int, *, grow: bool) -> None:
        """Zeros over the range; beyond the end only if the file may grow."""
        if grow:
            self.resize(max(len(self.data), offset + size))
        end = min(offset + size, len(self.data))
        if end > offset:
            self.data[offset:end] = bytes(end - offset)

    def copy(self, source: int, target: int, size: int) -> None:
        self.write(target, bytes(self.data[source : source + size]))

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])
