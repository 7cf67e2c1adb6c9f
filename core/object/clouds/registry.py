# SPDX-License-Identifier: Apache-2.0
"""Clouds as storages: which module opens which, loaded only when a volume asks for it, and who checks a bucket.

Tables that core/object/open.py merges into its own. Source: spec data-path §4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from core.object.api import ObjectStore

Opener = Callable[[str, str, str, str, str], ObjectStore]

_ALIAS = ("core.object.s3.alias", "open_alias", "core.object.s3.kinds", "parse_kind")
_SIGNED = ("core.object.clouds.signed", "open_signed", "core.object.clouds.signed", "find_place")

#: Storage → module and function that opens it; module and function that refuses a bucket of the wrong form.
_PLACES = {
    "b2": ("core.object.s3.b2", "open_b2", "core.object.s3.b2", "find_b2"),
    "bos": _ALIAS,
    "cos": _SIGNED,
    "eos": _ALIAS,
    "gs": ("core.object.clouds.google", "open_google", "core.object.clouds.google", "find_bucket"),
    "ibmcos": ("core.object.s3.ibm", "open_ibm", "core.object.s3.ibm", "find_ibm"),
    "ks3": _ALIAS,
    "obs": _SIGNED,
    "oos": _ALIAS,
    "oss": _SIGNED,
    "qingstor": _ALIAS,
    "qiniu": _ALIAS,
    "scw": _ALIAS,
    "space": _ALIAS,
    "tos": _ALIAS,
    "ufile": _ALIAS,
    "wasabi": _ALIAS,
    "wasb": ("core.object.clouds.azure", "open_azure", "core.object.clouds.azure", "check_bucket"),
    "webdav": ("core.object.clouds.webdav", "open_webdav", "core.object.clouds.webdav", "find_folder"),
}
# These functions are told the storage too, because one serves several.
_NAMED = frozenset({"parse_kind", "find_place"})


def _open(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    module, name, _, _ = _PLACES[storage]
    opener: Opener = getattr(import_module(module), name)
    return opener(storage, bucket, access_key, secret_key, session_token)


def check_bucket(storage: str, bucket: str) -> str:
    """The bucket as the volume's settings keep it. Raises ConfigError if it can't be understood."""
    _, _, module, name = _PLACES[storage]
    checker = getattr(import_module(module), name)
    one = bucket.replace("%d", "0")  # of several shards
    if name in _NAMED:
        checker(storage, one)
    else:
        checker(one)
    return bucket.strip()


OPENERS: dict[str, Opener] = dict.fromkeys(_PLACES, _open)
