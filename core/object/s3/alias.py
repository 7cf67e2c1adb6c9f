# SPDX-License-Identifier: Apache-2.0
"""Opens a bucket of a cloud that speaks S3 under another name (core/object/s3/kinds.py).

Source: spec data-path §3.4, §4.2.
"""

from __future__ import annotations

from core.object.s3.kinds import KINDS, choose_keys, parse_kind
from core.object.s3.options import is_true
from core.object.s3.store import S3Store


def open_alias(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> S3Store:
    address = parse_kind(storage, bucket)
    provider = choose_keys(storage, access_key, secret_key, session_token)
    checksum = not is_true(address.options.get("disable-checksum", ""))
    store = S3Store(address, provider, checksum=checksum, write_checksum=KINDS[storage].writes_checksum)
    store.name = f"{storage}://{address.host}/{address.bucket}"
    return store
