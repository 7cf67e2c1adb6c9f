# SPDX-License-Identifier: Apache-2.0
"""Clouds that speak S3 under a storage type of their own: which endpoint, region and keys a bucket URL means.

A table; a new one is a row. The URL form is that of the volume's setting, `https://<bucket>.<endpoint>`, whose host may
differ from the one that speaks S3 (`s3_host`). A private deployment, a proxy or a test server is given as
`http(s)://HOST[:PORT]/BUCKET`, with `?region=` if it matters.
Source: spec data-path §3.4 (who keeps a checksum), §4.2 (forms, credentials); the services' documents on S3
compatibility for the endpoints, of which none could be tried (docs/object-stores.md).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from core.errors import ConfigError
from core.object.s3.address import DEFAULT_REGION, Address
from core.object.s3.credentials import Credentials, Fixed, Provider


class Kind(NamedTuple):
    form: str
    host: str  # what follows the bucket, a pattern with the group `region` if it has one
    s3_host: str = ""  # the host that speaks S3, made of {region} and {domain}; "" = the same
    region: str = "{region}"  # the region to sign for
    keys_env: tuple[str, str, str] = ("", "", "")  # variables of access key, secret key, session token
    region_env: str = ""  # region of a form that leaves it out
    region_default: str = ""
    writes_checksum: bool = True
    escaped_keys: bool = False  # keys are percent-encoded in the settings


KINDS: dict[str, Kind] = {
    "bos": Kind(
        "https://BUCKET.REGION.bcebos.com or BUCKET.bcebos.com",
        r"(?:(?P<region>[a-z0-9-]+)\.)?(?P<domain>bcebos\.com)",
        "s3.{region}.{domain}",
        keys_env=("BDCLOUD_ACCESS_KEY", "BDCLOUD_SECRET_KEY", ""),
        region_env="BDCLOUD_DEFAULT_REGION",
        region_default="bj",
        writes_checksum=False,
    ),
    "eos": Kind(
        "https://BUCKET.eos-REGION-1.cmecloud.cn",
        r"eos-(?P<region>[a-z0-9-]+)\.cmecloud\.cn",
        region=DEFAULT_REGION,
        keys_env=("EOS_ACCESS_KEY", "EOS_SECRET_KEY", "EOS_TOKEN"),
    ),
    "ks3": Kind(
        "https://BUCKET.ks3-REGION.ksyuncs.com",
        r"ks3-(?P<region>[a-z0-9-]+?)(?:-internal)?\.(?P<domain>ksyuncs\.com|ksyun\.com)",
        escaped_keys=True,
    ),
    "oos": Kind("https://BUCKET.oos-REGION.ctyunapi.cn", r"oos-(?P<region>[a-z0-9-]+)\.ctyunapi\.cn"),
    "qingstor": Kind(
        "https://BUCKET.ZONE.qingstor.com",
        r"(?P<region>[a-z0-9]+)\.(?P<domain>qingstor\.com)",
        "s3.{region}.{domain}",
    ),
    "qiniu": Kind(
        "https://BUCKET.s3-REGION.qiniucs.com", r"s3-(?P<region>[a-z0-9-]+)\.qiniucs\.com", writes_checksum=False
    ),
    "scw": Kind(
        "https://BUCKET.s3.REGION.scw.cloud",
        r"s3\.(?P<region>[a-z0-9-]+)\.scw\.cloud",
        keys_env=("SCW_ACCESS_KEY", "SCW_SECRET_KEY", ""),
    ),
    "space": Kind("https://BUCKET.REGION.digitaloceanspaces.com", r"(?P<region>[a-z0-9]+)\.digitaloceanspaces\.com"),
    "tos": Kind(
        "https://BUCKET.tos-REGION.volces.com",
        r"tos-(?:s3-)?(?P<region>[a-z0-9-]+)\.(?P<domain>[a-z0-9.-]+)",
        "tos-s3-{region}.{domain}",
    ),
    "ufile": Kind(
        "https://BUCKET.REGION.ufileos.com",
        r"(?:s3-)?(?P<region>[a-z0-9-]+)\.(?P<domain>ufileos\.com)",
        "s3-{region}.{domain}",
    ),
    "wasabi": Kind(
        "https://BUCKET.s3.REGION.wasabisys.com",
        r"s3\.(?:(?P<region>[a-z0-9-]+)\.)?wasabisys\.com",
        region_default=DEFAULT_REGION,
    ),
}

# Kingsoft signs for a name of its own.
_KS3_REGIONS = {
    "cn-beijing": "BEIJING",
    "cn-shanghai": "SHANGHAI",
    "cn-guangzhou": "GUANGZHOU",
    "cn-hk-1": "HONGKONG",
    "rus": "RUSSIA",
    "sgp": "SINGAPORE",
}


def parse_kind(storage: str, bucket: str, environ: Mapping[str, str] = os.environ) -> Address:
    """Raises ConfigError that shows the form; texts never contain the URL's user part."""
    kind = KINDS[storage]
    scheme, separator, rest = bucket.strip().partition("://")
    if not separator:
        scheme, rest = "https", bucket.strip()
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        raise _refuse(storage, f"the scheme {scheme!r} is not http or https")
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise _refuse(storage, "keys don't belong into the bucket URL, give --access-key and --secret-key")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise _refuse(storage, "host or port can't be understood") from None
    if not host:
        raise _refuse(storage, "the host is missing" if rest.strip("/") else "it is empty")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    number = port or (443 if scheme == "https" else 80)
    path = [segment for segment in parts.path.split("/") if segment]
    asked = options.get("region", "")
    if path:  # http(s)://HOST[:PORT]/BUCKET
        return Address(scheme, host, number, path[0], False, asked or DEFAULT_REGION, bool(asked), options)
    name, _, endpoint = host.partition(".")
    if not endpoint or _is_ip(host):
        raise _refuse(storage, "the bucket name or the endpoint is missing")
    found = re.fullmatch(kind.host, endpoint)
    if not found:
        # Another domain: a proxy or a private deployment, reached under the name that was given.
        if not asked:
            raise _refuse(storage, f"{endpoint!r} is no endpoint of this service (for another one add ?region=)")
        return Address(scheme, endpoint, number, name, True, asked, True, options)
    fields = found.groupdict()
    region = asked or fields.get("region") or environ.get(kind.region_env, "") or kind.region_default
    s3_host = kind.s3_host.format(region=region, domain=fields.get("domain", "")) if kind.s3_host else endpoint
    signed = _KS3_REGIONS.get(region, region) if storage == "ks3" else kind.region.format(region=region)
    return Address(scheme, s3_host, number, name, True, asked or signed, True, options)


def choose_keys(
    storage: str, access_key: str, secret_key: str, session_token: str, environ: Mapping[str, str] = os.environ
) -> Provider:
    """Given keys, else those of the service's variables; `anonymous` signs nothing."""
    kind = KINDS[storage]
    found = access_key.strip(), secret_key.strip(), session_token.strip()
    if kind.escaped_keys:
        found = unquote(found[0]), unquote(found[1]), unquote(found[2])
    if found[0] == "anonymous":
        return Fixed(None)
    names = kind.keys_env
    if not found[0] and not found[1] and names[0]:
        found = environ.get(names[0], ""), environ.get(names[1], ""), environ.get(names[2], "") if names[2] else ""
    if found[0] and found[1]:
        return Fixed(Credentials(*found))
    other = f", set {names[0]} and {names[1]}" if names[0] else ""
    missing = "no credentials were found" if not any(found[:2]) else "one of the two keys is missing"
    raise ConfigError(f"{storage}: {missing}; give both --access-key and --secret-key{other}")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refuse(storage: str, reason: str) -> ConfigError:
    return ConfigError(f"{storage}: the bucket can't be used: {reason}; use {KINDS[storage].form}")
