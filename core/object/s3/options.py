# SPDX-License-Identifier: Apache-2.0
"""Options of a bucket URL that both clients share: TLS, flags.

Source: spec data-path §4.1 (query parameters handled for every backend).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from core.errors import ConfigError


def is_true(text: str) -> bool:
    """As Go's ParseBool reads it."""
    return text in ("1", "t", "T", "true", "True", "TRUE")


def tls_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """From tls-insecure-skip-verify and the trio ca-certs, ssl-cert, ssl-key of the bucket URL."""
    names = ("ca-certs", "ssl-cert", "ssl-key")
    paths = [options.get(name, "") for name in names]
    context = ssl.create_default_context()
    if any(paths):
        if not all(paths):
            raise ConfigError(f"the bucket URL needs all of {', '.join(names)}, or none")
        try:
            context.load_verify_locations(paths[0])
            context.load_cert_chain(paths[1], paths[2])
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ca-certs, ssl-cert or ssl-key of the bucket URL can't be used: {error}") from error
    if is_true(options.get("tls-insecure-skip-verify", "")):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
