# SPDX-License-Identifier: Apache-2.0
"""Requests as the gateway sees them, and as botocore signs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import BaseSigner
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from core.object.api import Buffer
from gateways.http.messages import Body, Request
from gateways.s3.auth import Credential, StaticCredentials
from gateways.s3.errors import S3Error

ACCESS = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
KEYS = StaticCredentials([Credential(ACCESS, SECRET)])
BOTO = BotoCredentials(ACCESS, SECRET)


class NoBody(Body):
    """Authentication reads the head only."""

    length = 0

    async def read(self) -> Buffer:
        raise AssertionError("the body must not be read")


def request(method: str, target: str, headers: Mapping[str, str]) -> Request:
    return Request(method, target, {k.lower(): v for k, v in headers.items()}, NoBody())


def signed_by_botocore(
    signer: BaseSigner, method: str, url: str, headers: Mapping[str, str] | None = None, data: bytes = b"", **extra: Any
) -> Request:
    """What arrives here when botocore signs and sends a request."""
    boto = AWSRequest(method, url, headers=dict(headers or {}), data=data)
    boto.context.update(extra)
    signer.add_auth(boto)
    parts = urlsplit(boto.url)
    sent = {k.lower(): v.decode("latin-1") if isinstance(v, bytes) else v for k, v in boto.headers.items()}
    sent.setdefault("host", parts.netloc)
    # Things a client library adds after signing.
    sent |= {"user-agent": "Boto3/1", "accept-encoding": "identity", "content-length": str(len(data))}
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    return Request(method, target, sent, NoBody())


def code_of(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str]:
    """Status and code of the error that a call must raise."""
    with pytest.raises(S3Error) as caught:
        call(*args, **kwargs)
    return caught.value.status, caught.value.code
