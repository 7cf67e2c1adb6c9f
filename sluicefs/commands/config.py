# SPDX-License-Identifier: Apache-2.0
"""`sluice config META-URL`: show the settings of a volume, or change those that are named (cli §2.2)."""

from __future__ import annotations
