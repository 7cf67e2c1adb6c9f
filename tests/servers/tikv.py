# SPDX-License-Identifier: Apache-2.0
"""A real TiKV protocol for tests: tikv-mini, one process that is PD and TiKV, on one port, in memory.

Built by tests/tools/install_tikv.sh. Not for crash tests of TiKV itself; see tests/servers/tikv-mini/main.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import Server, missing, require

HINT = "tests/tools/install_tikv.sh builds it (needs Go)"


class TiKVServer(Server):
    """`url(prefix)` is a metadata URL. split: keys at which the fresh store is cut into regions (ASCII).

    keep: store on disk, so that `kill` and `start` bring the data back (all of it after a stop in peace).
    """

    def __init__(self, *, split: Sequence[str] = (), keep: bool = False) -> None:
        try:
            import tikv_client  # noqa: F401
        except ImportError:
            missing("tikv-client", "pip install tikv-client==0.0.4")
        program = require("tikv-mini", HINT)

        def command(port: int, folder: Path) -> Sequence[str]:
            regions = ["-split", ",".join(split)] if split else []
            data = ["-data", str(folder / "data")] if keep else []
            return [program, "-addr", f"127.0.0.1:{port}", *regions, *data]

        super().__init__(command, name="tikv-mini")

    @property
    def pd(self) -> str:
        """Address of the placement driver."""
        return f"127.0.0.1:{self.port}"

    def url(self, prefix: str = "", options: str = "") -> str:
        return f"tikv://{self.pd}/{prefix}{options}"
