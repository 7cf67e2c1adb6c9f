# SPDX-License-Identifier: Apache-2.0
"""Opens a folder of a WebDAV server, storage type `webdav`.

Not through OpenDAL: its client asks the server about the folder before each put, so that a block costs two requests
(ten in new folders) where one does, and knows no certificates of one's own.
Source: spec data-path §4.2 (form, default http, keys below the base path, missing parents made).
"""

from __future__ import annotations

from urllib.parse import unquote

from core.object.api import ObjectStore
from core.object.clouds.bucket_url import BucketUrl, both_keys, split_url
from core.object.clouds.dav_store import WebDavStore

FORM = "http://HOST[:PORT][/FOLDER]"


def find_folder(bucket: str) -> BucketUrl:
    url = split_url("webdav", bucket, FORM, default_scheme="http")
    return url._replace(path=unquote(url.path))


def open_webdav(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    both_keys("webdav", access_key, secret_key)
    return WebDavStore(find_folder(bucket), access_key.strip(), secret_key.strip())
