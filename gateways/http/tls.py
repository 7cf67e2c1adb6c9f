# SPDX-License-Identifier: Apache-2.0
"""TLS for a door: a server context from PEM files, refreshed when the files change.

Loading a new chain into the same context serves new connections with it; running ones keep theirs. That is how
certificates renewed by cert-manager or certbot arrive without a restart.
Source: OpenSSL SSL_CTX_use_certificate_chain_file(3); spec s3 §21 (`--tls-cert`, reload on change); spec webdav §17.
"""

from __future__ import annotations

import logging
import os
import ssl

from core.errors import ConfigError

log = logging.getLogger("sluice.http.tls")


class ReloadingContext:
    """`context` for asyncio; call `refresh` now and then."""

    def __init__(self, certificate: str, key: str) -> None:
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._stamp = self._stat()
        try:
            self.context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"TLS certificate {certificate} and key {key} can't be used: {error}; "
                "both must be PEM, the key without a pass phrase, and belong together"
            ) from error

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        stamps = []
        for path in self._files:
            try:
                found = os.stat(path)  # follows links: Kubernetes swaps a link to the new folder
            except OSError as error:
                raise ConfigError(f"TLS file {path} can't be read: {error.strerror}") from error
            stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
        return tuple(stamps)

    def refresh(self) -> bool:
        """Load the files again if they changed. A half-written pair is left for the next call."""
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return False
            # Try in a context of its own first: a failed load could leave a new chain with the old key.
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trial.load_cert_chain(*self._files, password=_no_password)
            self.context.load_cert_chain(*self._files, password=_no_password)
        except (ConfigError, ssl.SSLError, ValueError, OSError) as error:
            log.warning("changed TLS files can't be used yet, the old certificate stays: %s", error)
            return False
        self._stamp = stamp
        log.info("TLS certificate %s was loaded again", self._files[0])
        return True


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise ValueError("the key is protected by a pass phrase")
