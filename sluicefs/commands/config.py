# SPDX-License-Identifier: Apache-2.0
"""`sluice config META-URL`: show the settings of a volume, or change those that are named (cli §2.2)."""

from __future__ import annotations

from typing import Any

import click

from core.meta.format import SECRET_FIELDS, Format, Tier
from core.volume import format_volume, open_volume
from sluicefs.cli import command
from sluicefs.options import BANDWIDTH, DURATION, meta_argument, read_credentials, size
from sluicefs.output import settings, show
from sluicefs.volume import run
