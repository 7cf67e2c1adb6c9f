# SPDX-License-Identifier: Apache-2.0
"""`sluice version`: our version, and the JuiceFS version whose volumes we share (cli §3)."""

from __future__ import annotations

import platform

from core.meta.version import CLIENT_VERSION
from sluicefs import __version__
from sluicefs.cli import command
from sluicefs.output import show


def version_line() -> str:
    return f"sluice version {__version__} (JuiceFS volumes as client {CLIENT_VERSION.partition('+')[0]})"


@command("version")
def version_command() -> None:
    """Version of this program, and the client version that it announces to a volume."""
    document = {"version": __version__, "client_version": CLIENT_VERSION, "python": platform.python_version()}
    show(document, version_line())
