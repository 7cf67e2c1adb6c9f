# SPDX-License-Identifier: Apache-2.0
"""Alibaba OSS, Tencent COS and Huawei OBS in their own protocols, through OpenDAL.

OSS and COS keep the CRC-32C of each object as `x-oss-meta-crc32c` and `x-cos-meta-crc32c`, which other clients of the
volume verify too; `?disable-checksum=true` leaves it out and saves the HEAD beside each full read.
Source: spec data-path §3.4, §4.2; the services' endpoint tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from core.errors import ConfigError
from core.object.api import ObjectStore
from core.object.clouds.bucket_url import both_keys, refuse, refuse_tls_options, split_url
from core.object.clouds.opendal_store import OpendalStore
from core.object.s3.options import is_true


class Service(NamedTuple):
    form: str
    region_env: str  # which region a bare bucket name is in; "" = bare names can't be used
    endpoint: str  # of a region
    key_envs: tuple[tuple[str, str, str], ...]  # access key, secret key, session token
    settings: tuple[str, str, str]  # OpenDAL's words for these
    checksum: bool


SERVICES = {
    "oss": Service(
        "https://BUCKET.oss-REGION.aliyuncs.com, or BUCKET with ALICLOUD_REGION_ID set",
        "ALICLOUD_REGION_ID",
        "oss-{region}.aliyuncs.com",
        (("ALICLOUD_ACCESS_KEY_ID", "ALICLOUD_ACCESS_KEY_SECRET", "SECURITY_TOKEN"),),
        ("access_key_id", "access_key_secret", "security_token"),
        True,
    ),
    "cos": Service(
        "https://BUCKET-APPID.cos.REGION.myqcloud.com",
        "",
        "cos.{region}.myqcloud.com",
        (("COS_SECRETID", "COS_SECRETKEY", ""),),
        ("secret_id", "secret_key", "security_token"),
        True,
    ),
    "obs": Service(
        "https://BUCKET.obs.REGION.myhuaweicloud.com, or BUCKET with HWCLOUD_DEFAULT_REGION set",
        "HWCLOUD_DEFAULT_REGION",
        "obs.{region}.myhuaweicloud.com",
        (("HWCLOUD_ACCESS_KEY", "HWCLOUD_SECRET_KEY", ""),),
        ("access_key_id", "secret_access_key", ""),
        False,
    ),
}


class Place(NamedTuple):
    endpoint: str
    bucket: str
    checksum: bool


def find_place(storage: str, bucket: str, environ: Mapping[str, str] = os.environ) -> Place:
    service = SERVICES[storage]
    url = split_url(storage, bucket, service.form)
    refuse_tls_options(storage, url.options)
    name, _, host = url.host.partition(".")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name):
        raise refuse(storage, service.form, f"{name!r} is no bucket name")
    if host:
        authority = host if url.port is None else f"{host}:{url.port}"
    else:
        region = environ.get(service.region_env, "") if service.region_env else ""
        if not region:
            raise refuse(storage, service.form, "the region of a bare bucket name is unknown")
        authority = service.endpoint.format(region=region)
    if storage == "cos" and not re.search(r"-\d+\Z", name):
        raise refuse(storage, service.form, f"the bucket name {name!r} lacks the application id at its end")
    checksum = service.checksum and not is_true(url.options.get("disable-checksum", ""))
    return Place(f"{url.scheme}://{authority}", name, checksum)


def open_signed(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    service, place = SERVICES[storage], find_place(storage, bucket)
    settings = {
        "bucket": place.bucket,
        "endpoint": place.endpoint,
        **keys_of(storage, access_key, secret_key, session_token),
    }
    if service.settings[2] == "" and session_token.strip():
        raise ConfigError(f"{storage}: --session-token can't be used with this client; give permanent keys")
    hint = f"give --access-key and --secret-key, or set {' and '.join(service.key_envs[0][:2])}"
    return OpendalStore(f"{storage}://{place.bucket}", storage, settings, checksum=place.checksum, keys_hint=hint)


def keys_of(
    storage: str, access_key: str, secret_key: str, session_token: str, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """OpenDAL's settings for given keys, else those of the environment, else none: then its own chain looks."""
    service = SERVICES[storage]
    found = access_key.strip(), secret_key.strip(), session_token.strip()
    both_keys(storage, found[0], found[1])
    if not found[0]:
        for names in service.key_envs:
            pair = environ.get(names[0], ""), environ.get(names[1], "")
            if all(pair):
                found = (*pair, environ.get(names[2], "") if names[2] else "")
                break
    return {word: value for word, value in zip(service.settings, found, strict=True) if word and value}
