# SPDX-License-Identifier: Apache-2.0
"""A real TiKV protocol for tests: tikv-mini, one process that is PD and TiKV, on one port, in memory.

Built by tests/tools/install_tikv.sh. Not for crash tests of TiKV itself; see tests/servers/tikv-mini/main.go.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import Server, missing, require

HINT = "tests/tools/install_tikv.sh builds it (needs Go)"


class TiKVServer(Server):
    """`url(prefix)` is a metadata URL.

    split: keys at which the fresh store is cut into regions; no NUL bytes and no commas.
    advertised: port that PD tells clients to use, if a proxy is in between; may be set until `start`.
    keep: store on disk, so that `kill` and `start` bring the data back (all of it after a stop in peace).
    """

    def __init__(self, *, split: Sequence[bytes] = (), keep: bool = False) -> None:
        try:
            import tikv_client  # noqa: F401
        except ImportError:
            missing("tikv-client", "pip install tikv-client==0.0.4")
        program = require("tikv-mini", HINT)
        self.advertised = 0

        def command(port: int, folder: Path) -> Sequence[str]:
            regions = ["-split", os.fsdecode(b",".join(split))] if split else []
            regions += ["-advertise", f"127.0.0.1:{self.advertised}"] if self.advertised else []
            data = ["-data", str(folder / "data")] if keep else []
            return [program, "-addr", f"127.0.0.1:{port}", *regions, *data]

        super().__init__(command, name="tikv-mini")

    @property
    def pd(self) -> str:
        """Address of the placement driver."""
        return f"127.0.0.1:{self.advertised or self.port}"

    def url(self, prefix: str = "", options: str = "") -> str:
        return f"tikv://{self.pd}/{prefix}{options}"


def inside(prefix: str) -> list[bytes]:
    """Borders of regions within a volume: between kinds of records, and between inodes (of which the lowest byte
    comes first, so that entries of one directory and the inodes they name lie in different regions)."""
    head = prefix.encode() + b"\xfd"
    return [
        head + tail for tail in (b"A", b"A\x02", b"A\x03", b"A\x04", b"A\x40", b"A\x80", b"B", b"U", b"U\x02", b"X")
    ]
