# SPDX-License-Identifier: Apache-2.0
"""WsgiDAV, loaded in one place: it is optional (the extra `webdav`), untyped, and everything we use of it is here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from core.errors import ConfigError


def _load(module: str) -> Any:
    try:
        return import_module("wsgidav." + module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the WebDAV door needs {error.name}: install sluicefs[webdav]") from error


_errors = _load("dav_error")
_providers = _load("dav_provider")

DAVError = _errors.DAVError
DAVErrorCondition = _errors.DAVErrorCondition
DAVCollection = _providers.DAVCollection
DAVNonCollection = _providers.DAVNonCollection
DAVProvider = _providers.DAVProvider
ErrorPrinter = _load("error_printer").ErrorPrinter
LockManager = _load("lock_man.lock_manager").LockManager
RequestResolver = _load("request_resolver").RequestResolver
WsgiDAVApp = _load("wsgidav_app").WsgiDAVApp
