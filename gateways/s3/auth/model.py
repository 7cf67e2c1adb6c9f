# SPDX-License-Identifier: Apache-2.0
"""Words of authentication: who asks, how the request proved it, and how its body is protected.

Source: spec s3 §5.1 (kinds), §5.2 and §5.4 (values of x-amz-content-sha256).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec


class Kind(enum.Enum):
    """How a request is signed."""

    ANONYMOUS = "anonymous"
    HEADER_V4 = "v4"
    PRESIGNED_V4 = "presigned-v4"
    HEADER_V2 = "v2"
    PRESIGNED_V2 = "presigned-v2"
    FORM = "form"  # POST upload: the form fields carry policy and signature, see `post_policy`


class PayloadMode(enum.Enum):
    """What the body looks like on the wire, and what proves it."""

    UNSIGNED = "UNSIGNED-PAYLOAD"
    SHA256 = "sha256"  # plain body; `Auth.sha256` is its digest
    STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    @property
    def chunked(self) -> bool:
        """The body is aws-chunked: it needs an `AwsChunkedDecoder`."""
        return self not in (PayloadMode.UNSIGNED, PayloadMode.SHA256)


class Identity(msgspec.Struct, frozen=True):
    """Who asks. access_key is "" for anonymous requests."""

    access_key: str
    owner_id: str = ""  # 64 hex digits, as shown in Owner elements
    display_name: str = ""
    root: bool = False
    parent: str = ""  # access key of the user that a service account or temporary credential belongs to

    @property
    def anonymous(self) -> bool:
        return not self.access_key


ANONYMOUS = Identity("")


class Seed(NamedTuple):
    """Where the chain of chunk signatures begins."""

    signing_key: bytes
    scope: str  # DATE/REGION/SERVICE/aws4_request
    timestamp: str  # YYYYMMDDTHHMMSSZ
    signature: str  # hex signature of the request itself

    def __repr__(self) -> str:  # the signing key must not reach a log
        return f"Seed(scope={self.scope!r}, timestamp={self.timestamp!r})"


class Auth(NamedTuple):
    """A request that proved who sent it (or is allowed to be anonymous)."""

    kind: Kind
    identity: Identity
    payload: PayloadMode = PayloadMode.UNSIGNED
    sha256: str = ""  # lower-case hex; only with PayloadMode.SHA256
    seed: Seed | None = None  # only with signed streaming modes
    signed_at: float = 0.0  # Unix time of the signature, for s3:signatureAge; 0 if unknown

    @property
    def signed(self) -> bool:
        """Not anonymous: `response-*` overrides are allowed."""
        return bool(self.identity.access_key)
