# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage, storage type `gs`.

Who we are: application default credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, the metadata server), or
nobody with the access key `anonymous`. STORAGE_EMULATOR_HOST names an emulator, as for Google's own clients.
Source: spec data-path §4.2; Google Cloud Storage JSON API ("Buckets: insert").
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from core.errors import ConfigError, ObjectError
from core.object.api import ObjectStore
from core.object.buffers import views
from core.object.clouds.bucket_url import refuse, refuse_tls_options, split_url
from core.object.clouds.opendal_store import OpendalStore
from core.object.http import Client, ExchangeFailed

FORM = "gs://BUCKET or gs://BUCKET.REGION"
ENDPOINT = "https://storage.googleapis.com"
_HINT = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


class GoogleBucket(NamedTuple):
    name: str
    region: str  # where a missing bucket is made, "" = Google's default
    endpoint: str
    signed: bool


def find_bucket(bucket: str, access_key: str = "", environ: Mapping[str, str] = os.environ) -> GoogleBucket:
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() != "gs":
        raise refuse("gs", FORM, f"the scheme {scheme!r} is not gs")
    url = split_url("gs", rest if separator else text, FORM)
    refuse_tls_options("gs", url.options)
    name, _, region = url.host.partition(".")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]", name):
        raise refuse("gs", FORM, f"{name!r} is no bucket name (3–63 lower-case letters, digits, - and _)")
    if not re.fullmatch(r"([a-z]+-[a-z]+\d+|us|eu|asia|[a-z]+\d+)?", region):
        raise refuse("gs", FORM, f"{region!r} is no region; bucket names with dots can't be used, as in the URL form")
    emulator = environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    return GoogleBucket(name, region, emulator or ENDPOINT, not emulator and access_key.strip() != "anonymous")


def open_google(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    found = find_bucket(bucket, access_key)
    settings = {"bucket": found.name, "endpoint": found.endpoint}
    if not found.signed:
        settings |= {"allow_anonymous": "true", "skip_signature": "true", "disable_config_load": "true"}
        settings["disable_vm_metadata"] = "true"
    elif (path := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")) and not os.path.isfile(path):
        raise ConfigError(f"gs: GOOGLE_APPLICATION_CREDENTIALS names {path}, which is no file")
    name = f"gs://{found.name}"
    return OpendalStore(
        name,
        "gcs",
        settings,
        class_setting="default_storage_class",
        keys_hint=_HINT,
        make=lambda: make_bucket(name, found),
    )


async def make_bucket(name: str, bucket: GoogleBucket, environ: Mapping[str, str] = os.environ) -> None:
    """Create it in the project GOOGLE_CLOUD_PROJECT; one that exists and is ours is fine."""
    project = environ.get("GOOGLE_CLOUD_PROJECT", "")
    if not project:
        if bucket.endpoint == ENDPOINT:
            raise ObjectError(
                f"{name}: the bucket is missing or can't be used, and GOOGLE_CLOUD_PROJECT, in which to make it, is "
                f"not set; set it, or make the bucket with `gcloud storage buckets create {name}`",
                retryable=False,
            )
        project = "emulated"
    token = await asyncio.to_thread(_token, name) if bucket.signed else ""
    parts = urlsplit(bucket.endpoint)
    client = Client(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    body = json.dumps({"name": bucket.name, **({"location": bucket.region} if bucket.region else {})}).encode()
    who = f"authorization: Bearer {token}\r\n" if token else ""
    lines = f"host: {client.authority}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{who}"
    try:
        answer = await client.request("POST", f"/storage/v1/b?project={project}", lines, views(body), len(body))
    except (ExchangeFailed, OSError, ssl.SSLError) as error:
        raise ObjectError(f"{name}: making the bucket failed: {error}") from error
    finally:
        await client.close()
    if answer.status in (200, 201, 409):  # 409: it exists; whether it is ours, the next request tells
        return
    found = re.search(rb'"message":\s*"([^"]{0,300})', bytes(answer.body))
    told = found[1].decode("utf-8", "replace") if found else ""
    raise ObjectError(
        f"{name}: making the bucket in project {project!r} was refused with {answer.status}{told and ': ' + told}; "
        "make it by hand or check what these credentials may do",
        retryable=answer.status >= 500 or answer.status == 429,
    )


def _token(name: str) -> str:
    """An access token by the application default credentials; runs in a thread."""
    try:
        auth: Any = importlib.import_module("google.auth")
        transport: Any = importlib.import_module("google.auth.transport.requests")
    except ImportError:
        raise ObjectError(
            f"{name}: making the bucket needs the package google-auth; install it with `pip install google-auth "
            f"requests`, or make the bucket with `gcloud storage buckets create {name}`",
            retryable=False,
        ) from None
    try:
        credentials, _ = auth.default(scopes=[_SCOPE])
        credentials.refresh(transport.Request())
    except Exception as error:  # google.auth has a dozen kinds without a useful common base
        raise ObjectError(
            f"{name}: the application default credentials can't be used ({type(error).__name__}); run `gcloud auth "
            "application-default login` or set GOOGLE_APPLICATION_CREDENTIALS",
            retryable=False,
        ) from None
    return str(credentials.token)
