# SPDX-License-Identifier: Apache-2.0
"""A folder of a WebDAV server, storage type `webdav`.

Source: spec data-path §4.2 (form, default http, keys below the base path, missing parents made); RFC 4918.
"""

from __future__ import annotations

from typing import NamedTuple

from core.object.api import ObjectStore
from core.object.clouds.bucket_url import both_keys, refuse_tls_options, split_url
from core.object.clouds.opendal_store import OpendalStore

FORM = "http://HOST[:PORT][/FOLDER]"


class Folder(NamedTuple):
    endpoint: str
    root: str


def find_folder(bucket: str) -> Folder:
    url = split_url("webdav", bucket, FORM, default_scheme="http")
    refuse_tls_options("webdav", url.options)
    return Folder(f"{url.scheme}://{url.authority}", f"/{url.path}/" if url.path else "/")


def open_webdav(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    folder = find_folder(bucket)
    both_keys("webdav", access_key, secret_key)
    settings = {
        "endpoint": folder.endpoint,
        "root": folder.root,
        "username": access_key.strip(),
        "password": secret_key.strip(),
    }
    return OpendalStore(
        f"webdav://{folder.endpoint.partition('://')[2]}{folder.root}", "webdav", settings, folders=True
    )
