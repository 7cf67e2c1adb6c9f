# SPDX-License-Identifier: Apache-2.0
"""Azure Blob Storage, storage type `wasb`.

Who we are, in this order: AZURE_STORAGE_CONNECTION_STRING; a SAS token in --session-token; account and key; the default
chain (service principal, workload identity, managed identity). Blobs are OpenDAL's work; only making a container is
ours, one signed request. Source: spec data-path §4.2; Azure documentation ("Configure connection strings", "Authorize
with Shared Key", "Create Container").
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import ssl
from collections.abc import Mapping
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from core.errors import ConfigError, ObjectError
from core.object.api import ObjectStore
from core.object.clouds.bucket_url import BucketUrl, refuse, refuse_tls_options, split_url
from core.object.clouds.opendal_store import OpendalStore
from core.object.http import Client, ExchangeFailed

FORM = "https://CONTAINER or https://CONTAINER.core.windows.net (the account is the access key)"
DEFAULT_SUFFIX = "core.windows.net"
API_VERSION = "2021-12-02"

_HINT = (
    "give the account's key with --secret-key or a SAS token with --session-token, or set "
    "AZURE_STORAGE_CONNECTION_STRING"
)

# What UseDevelopmentStorage=true stands for; published in Azure's documentation of the emulator.
_EMULATOR = {
    "AccountName": "devstoreaccount1",
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


class Container(NamedTuple):
    """Where a container is, and with what to open it; at most one of key and sas."""

    endpoint: str  # of the account, without a slash at the end
    name: str
    account: str
    key: str = ""
    sas: str = ""

    def __repr__(self) -> str:  # keys never reach a log
        return f"Container({self.endpoint!r}, {self.name!r}, {self.account!r}, ***)"


def find_container(
    bucket: str, access_key: str = "", secret_key: str = "", session_token: str = "",
    environ: Mapping[str, str] = os.environ,
) -> Container:  # fmt: skip
    """Raises ConfigError that says what is missing."""
    url, name, rest = check_bucket(bucket)
    if connection := environ.get("AZURE_STORAGE_CONNECTION_STRING", ""):
        return _by_connection_string(name, connection)
    account, key, sas = access_key.strip(), secret_key.strip(), session_token.strip().lstrip("?")
    if not account:
        raise ConfigError(
            "wasb: the storage account is unknown; give its name with --access-key (and its key with --secret-key, a "
            "SAS token with --session-token, or neither for the default credential chain), or set "
            "AZURE_STORAGE_CONNECTION_STRING"
        )
    suffix = rest or DEFAULT_SUFFIX
    if not suffix.startswith("blob."):
        suffix = f"blob.{suffix}"
    port = "" if url.port is None else f":{url.port}"
    if key:
        _require_base64(key, "--secret-key")
        sas = ""
    return Container(f"{url.scheme}://{account}.{suffix}{port}", name, account, key, sas)


def check_bucket(bucket: str) -> tuple[BucketUrl, str, str]:
    """The URL, the container in it and the rest of its host."""
    url = split_url("wasb", bucket, FORM)
    refuse_tls_options("wasb", url.options)
    name, _, rest = url.host.partition(".")
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9]){2,62}", name):
        raise refuse("wasb", FORM, f"{name!r} is no container name (3–63 letters, digits and single hyphens)")
    return url, name, rest


def _by_connection_string(name: str, text: str) -> Container:
    given: dict[str, str] = {}
    for field in filter(None, (part.strip() for part in text.split(";"))):
        word, equals, value = field.partition("=")
        if not equals:
            raise ConfigError(
                f"wasb: AZURE_STORAGE_CONNECTION_STRING has a part without '=' (after {len(given)} others)"
            )
        given[word] = value
    if given.get("UseDevelopmentStorage", "").lower() == "true":
        given = {**_EMULATOR, **given}
    endpoint, account = given.get("BlobEndpoint", "").rstrip("/"), given.get("AccountName", "")
    if not endpoint:
        if not account:
            raise ConfigError("wasb: AZURE_STORAGE_CONNECTION_STRING names neither AccountName nor BlobEndpoint")
        scheme = given.get("DefaultEndpointsProtocol", "https")
        endpoint = f"{scheme}://{account}.blob.{given.get('EndpointSuffix', DEFAULT_SUFFIX)}"
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise ConfigError("wasb: the BlobEndpoint of AZURE_STORAGE_CONNECTION_STRING is no http or https address")
    if not account:
        account = (urlsplit(endpoint).hostname or "").partition(".")[0]
    key, sas = given.get("AccountKey", ""), given.get("SharedAccessSignature", "").lstrip("?")
    if key:
        _require_base64(key, "AccountKey of AZURE_STORAGE_CONNECTION_STRING")
    elif not sas:
        raise ConfigError("wasb: AZURE_STORAGE_CONNECTION_STRING has neither AccountKey nor SharedAccessSignature")
    return Container(endpoint, name, account, key, "" if key else sas)


def _require_base64(key: str, where: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        raise ConfigError(f"wasb: the {where} is not base64, as keys of a storage account are; copy it again") from None


def open_azure(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    container = find_container(bucket, access_key, secret_key, session_token)
    settings = {
        "container": container.name,
        "endpoint": container.endpoint,
        "account_name": container.account,
        "account_key": container.key,
        "sas_token": container.sas,
    }
    name = f"wasb://{container.account}/{container.name}"
    return OpendalStore(name, "azblob", settings, keys_hint=_HINT, make=lambda: make_container(name, container))


async def make_container(name: str, container: Container) -> None:
    """Create it; one that exists is fine."""
    if not container.key and not container.sas:
        raise ObjectError(
            f"{name}: the container is missing and can't be made with these credentials; make it with "
            f"`az storage container create --account-name {container.account} --name {container.name}`",
            retryable=False,
        )
    parts = urlsplit(container.endpoint)
    client = Client(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    path = f"{parts.path.rstrip('/')}/{quote(container.name)}"
    fields = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": API_VERSION}
    target = f"{path}?restype=container"
    if container.key:
        fields["authorization"] = shared_key("PUT", path, {"restype": "container"}, fields, container)
    else:
        target += f"&{container.sas}"
    lines = "".join(f"{word}: {value}\r\n" for word, value in fields.items())
    try:
        answer = await client.request("PUT", target, f"host: {client.authority}\r\ncontent-length: 0\r\n{lines}", [], 0)
    except (ExchangeFailed, OSError, ssl.SSLError) as error:
        raise ObjectError(f"{name}: making the container failed: {error}") from error
    finally:
        await client.close()
    code = answer.headers.get("x-ms-error-code", "")
    if answer.status != 201 and code != "ContainerAlreadyExists":
        raise ObjectError(
            f"{name}: making the container was refused with {answer.status} {code}; make it by hand or check what "
            "these credentials may do",
            retryable=answer.status >= 500 or code == "ContainerBeingDeleted",
        )


def shared_key(
    method: str, path: str, query: Mapping[str, str], fields: Mapping[str, str], container: Container
) -> str:
    """Value of the Authorization field for a request without a body and without conditions."""
    own = "".join(f"{word}:{value}\n" for word, value in sorted(fields.items()) if word.startswith("x-ms-"))
    resource = f"/{container.account}{path}" + "".join(f"\n{word}:{value}" for word, value in sorted(query.items()))
    # Eleven standard fields, all empty here: encoding, language, length (0 is empty), MD5, type, date, four
    # conditions, range.
    text = f"{method}\n{chr(10) * 11}{own}{resource}"
    signature = hmac.digest(base64.b64decode(container.key), text.encode(), "sha256")
    return f"SharedKey {container.account}:{base64.b64encode(signature).decode()}"
