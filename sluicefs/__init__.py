# SPDX-License-Identifier: Apache-2.0
"""The `sluice` command: one file per command in `commands/`, each a thin layer over `core` and `gateways`.

What lives here talks to people and scripts: options, output, exit codes, signals. No rule of the file system does.
"""

from __future__ import annotations

__version__ = "0.1.0"
