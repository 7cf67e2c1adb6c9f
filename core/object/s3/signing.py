# SPDX-License-Identifier: Apache-2.0
"""AWS Signature Version 4 for requests whose body is not signed.

The signing key is kept for a day; a signature then costs two hashes. Source: AWS Signature Version 4 documentation
("Signature Calculations for the Authorization Header"), spec data-path §4.4 (`UNSIGNED-PAYLOAD`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from urllib.parse import quote

from core.object.s3.credentials import Credentials

PAYLOAD = "UNSIGNED-PAYLOAD"
_PLAIN = re.compile(r"[A-Za-z0-9/._~-]*\Z")


def encode_path(text: str) -> str:
    """Percent-encode a path once, as S3 wants it (no normalisation of `.`, `..` and `//`)."""
    return text if _PLAIN.match(text) else quote(text, safe="/~")


def encode_query(pairs: Mapping[str, str]) -> str:
    """Canonical query: sorted by encoded name; also what is sent."""
    encoded = ((quote(name, safe="~"), quote(value, safe="~")) for name, value in pairs.items())
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


class Signer:
    """`Signer("us-east-1").headers(…)` gives the header lines of a signed request, Host included."""

    def __init__(self, region: str, service: str = "s3") -> None:
        self.region = region
        self._service = service
        self._key_for: tuple[str, str] = ("", "")
        self._key = b""

    def headers(
        self,
        method: str,
        path: str,
        query: str,
        host: str,
        extra: Mapping[str, str],
        who: Credentials | None,
        now: float,
    ) -> str:
        """path and query: encoded. extra: further lower-case headers. who=None: not signed."""
        fields = {"host": host, **extra}
        if who is None:
            return "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        fields["x-amz-content-sha256"] = PAYLOAD
        fields["x-amz-date"] = stamp
        if who.session_token:
            fields["x-amz-security-token"] = who.session_token
        # `range` and the like may change on the way without harm; everything that S3 insists on is signed.
        names = sorted(name for name in fields if name == "host" or name == "content-type" or name.startswith("x-amz-"))
        canonical = "".join(f"{name}:{' '.join(fields[name].split())}\n" for name in names)
        signed = ";".join(names)
        request = f"{method}\n{path}\n{query}\n{canonical}\n{signed}\n{PAYLOAD}"
        date = stamp[:8]
        scope = f"{date}/{self.region}/{self._service}/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._signing_key(who.secret_key, date), text.encode(), "sha256").hex()
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return (
            f"{lines}authorization: AWS4-HMAC-SHA256 Credential={who.access_key}/{scope},"
            f"SignedHeaders={signed},Signature={signature}\r\n"
        )

    def _signing_key(self, secret: str, date: str) -> bytes:
        if self._key_for != (secret, date):
            key = b"AWS4" + secret.encode()
            for part in (date, self.region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key, self._key_for = key, (secret, date)
        return self._key
