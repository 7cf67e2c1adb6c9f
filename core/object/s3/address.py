# SPDX-License-Identifier: Apache-2.0
"""What a bucket URL says: scheme, host, bucket, addressing style, region, options.

Pure functions over text and an environment. Source: spec data-path §4.1 (query parameters), §4.2 (forms), §4.4.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from core.errors import ConfigError

DEFAULT_REGION = "us-east-1"

FORMS = {
    "s3": "https://BUCKET.s3.REGION.amazonaws.com, https://ENDPOINT/BUCKET, http://HOST:PORT/BUCKET or a bare name",
    "minio": "http://HOST:PORT/BUCKET",
}


class Address(NamedTuple):
    scheme: str
    host: str  # of the endpoint, without the bucket
    port: int
    bucket: str
    virtual_host: bool
    region: str
    region_known: bool  # False: a guess that the server may correct
    options: Mapping[str, str]

    @property
    def request_host(self) -> str:
        return f"{self.bucket}.{self.host}" if self.virtual_host else self.host

    @property
    def base_path(self) -> str:
        return "/" if self.virtual_host else f"/{self.bucket}/"


def parse_bucket(storage: str, bucket: str, environ: Mapping[str, str] = os.environ) -> Address:
    """Raises ConfigError that shows the accepted forms; texts never contain the URL's user part."""
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    elif scheme.lower() not in ("http", "https"):
        raise _refuse(storage, f"the scheme {scheme!r} is not http or https")
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise _refuse(storage, "keys don't belong into the bucket URL, give --access-key and --secret-key")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise _refuse(storage, "host or port can't be understood") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    segments = [segment for segment in parts.path.split("/") if segment]
    if storage == "minio" and len(segments) > 1 and segments[0] == "minio":
        del segments[0]
    name = segments[0] if segments else ""

    bare = storage == "s3" and not scheme and not name and port is None and "." not in host and host != "localhost"
    if bare:
        if not host:
            raise _refuse(storage, "it is empty")
        name, host = (parts.netloc or host), "s3.amazonaws.com"
    if not host:
        raise _refuse(storage, "the host is missing")
    if not scheme:
        aws_or_single = host.endswith(".amazonaws.com") or "." not in host
        scheme = "http" if storage == "minio" or not aws_or_single or host == "localhost" else "https"
    scheme = scheme.lower()

    if not name:
        if storage == "minio" or _is_ip(host) or "." not in host:
            raise _refuse(storage, "the bucket name is missing")
        name, host = _split_host(storage, host)
    region, known = _region(host, environ)
    if options.get("region"):
        region, known = options["region"], True
    elif storage == "minio":
        region, known = environ.get("MINIO_REGION") or DEFAULT_REGION, bool(environ.get("MINIO_REGION"))
    if _is_aws(host):
        # A certificate for *.s3… does not cover a bucket name with a dot.
        virtual = "." not in name or scheme == "http"
        if bare:
            host = f"s3.{region}.amazonaws.com"
    else:
        wanted = environ.get("JFS_S3_VHOST_STYLE", "").lower() not in ("", "0", "false")
        virtual = storage == "s3" and wanted and not _is_ip(host)
    return Address(scheme, host, port or (443 if scheme == "https" else 80), name, virtual, region, known, options)


def in_region(address: Address, region: str) -> Address:
    """The same bucket after the server named its region; regional AWS host names follow."""
    host = address.host
    if host == "s3.amazonaws.com" or re.fullmatch(r"s3[.-][a-z0-9-]+\.amazonaws\.com", host):
        host = f"s3.{region}.amazonaws.com"
    return address._replace(region=region, region_known=True, host=host)


def _split_host(storage: str, host: str) -> tuple[str, str]:
    """bucket and endpoint of `<bucket>.<endpoint>`; AWS bucket names may have dots."""
    if _is_aws(host):
        found = re.match(r"(?P<bucket>.+?)\.(?P<host>(?:bucket\.vpce-|s3[.-]).*)\Z", host)
        if not found:
            raise _refuse(storage, "the bucket name is missing")
        return found["bucket"], found["host"]
    name, _, rest = host.partition(".")
    return name, rest


def _region(host: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    for pattern in _REGION_PATTERNS:
        found = pattern.search(host)
        if found and found[1] not in ("accelerate", "external-1", "dualstack", "amazonaws"):
            return found[1], True
    given = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    return given or DEFAULT_REGION, False


_REGION_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        r"\.s3\.([a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?\Z",
        r"(?:^|\.)s3(?:-fips)?(?:\.dualstack)?[.-]([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?\Z",
        r"\.compat\.objectstorage\.([a-z0-9-]+)\.oraclecloud\.com\Z",
        r"(?:^|\.)s3\.([a-z0-9-]+)\.(?:io\.|perf\.)?cloud\.ovh\.(?:net|us)\Z",
    )
]


def _is_aws(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refuse(storage: str, reason: str) -> ConfigError:
    return ConfigError(f"{storage}: the bucket can't be used: {reason}; use {FORMS.get(storage, FORMS['s3'])}")
