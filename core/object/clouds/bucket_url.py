# SPDX-License-Identifier: Apache-2.0
"""The parts of a bucket URL that all services share: scheme, host, path, options; and what OpenDAL can't do with them.

Pure functions over text. Source: spec data-path §4.1 (query parameters), §4.2 (forms).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from core.errors import ConfigError
from core.object.s3.options import is_true


class BucketUrl(NamedTuple):
    scheme: str  # http or https
    host: str  # lower case
    port: int | None
    path: str  # without slashes around it
    options: Mapping[str, str]

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def split_url(storage: str, text: str, form: str, *, default_scheme: str = "https") -> BucketUrl:
    """form: what the message shows as the right way. Texts never contain a user part."""
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = default_scheme, text
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        raise refuse(storage, form, f"the scheme {scheme!r} is not http or https")
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise refuse(storage, form, "keys don't belong into the bucket URL, give --access-key and --secret-key")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise refuse(storage, form, "host or port can't be understood") from None
    if not host:
        raise refuse(storage, form, "it is empty" if not rest.strip("/") else "the host is missing")
    if not re.fullmatch(r"[a-z0-9._:%-]+", host):
        raise refuse(storage, form, f"{host!r} is no host name")
    return BucketUrl(scheme, host, port, parts.path.strip("/"), dict(parse_qsl(parts.query, keep_blank_values=True)))


def refuse(storage: str, form: str, reason: str) -> ConfigError:
    return ConfigError(f"{storage}: the bucket can't be used: {reason}; use {form}")


def refuse_tls_options(storage: str, options: Mapping[str, str]) -> None:
    """OpenDAL's Python package has no setting for certificates, so silence would be a lie."""
    asked = [name for name in ("ca-certs", "ssl-cert", "ssl-key") if options.get(name)]
    if is_true(options.get("tls-insecure-skip-verify", "")):
        asked.append("tls-insecure-skip-verify")
    if asked:
        raise ConfigError(
            f"{storage}: {', '.join(asked)} in the bucket URL can't be honoured by this client; put the authority's "
            "certificate into the system's store (or name a bundle in SSL_CERT_FILE) and leave the option out"
        )


def both_keys(storage: str, access_key: str, secret_key: str) -> None:
    if bool(access_key) != bool(secret_key):
        missing = "secret key" if access_key else "access key"
        raise ConfigError(f"{storage}: the {missing} is missing; give both --access-key and --secret-key, or none")
