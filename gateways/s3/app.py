# SPDX-License-Identifier: Apache-2.0
"""The S3 application: authenticate, route, authorize, run the handler, turn every failure into an S3 answer.

No rule of S3 lives here but the order of these steps. The table of handlers is `operations.HANDLERS`.
Source: spec s3 §2 (requests), §8 (common response headers), §16 (errors), §19 (what must never leak).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from core.vfs.api import ROOT_CALLER, Caller
from core.vfs.filesystem import FileSystem
from gateways.http.messages import Application, BadRequest, IncompleteBody, Request, Response, SlowBody
from gateways.s3.auth import Credentials, authenticate, hoisted_headers
from gateways.s3.auth.model import Kind
from gateways.s3.config import S3Config
from gateways.s3.errors import Context, S3Error, error_xml, from_exception
from gateways.s3.keys import bucket_from_host, key_text, parse_path
from gateways.s3.operations import CONTEXTS, HANDLERS
from gateways.s3.routing import action_of, operation_of, parse_query
from gateways.s3.service import XML_TYPE, Call, Service
from gateways.s3.xml_text import DECLARATION, escape

log = logging.getLogger("sluice.s3")

Probe = Callable[[], Awaitable[bool]]
Metrics = Callable[[], Awaitable[bytes]]

#: The second request id says which gateway answered; it must not tell anything else about the host.
_HOST_ID: Final = f"{random.getrandbits(128):032x}"

_LIVE: Final = frozenset({"/health", "/minio/health/live"})
_READY: Final = frozenset({"/minio/health/ready", "/minio/health/cluster", "/minio/health/cluster/read"})
_METRICS: Final = frozenset(
    {"/metrics", "/minio/prometheus/metrics", "/minio/v2/metrics/cluster", "/minio/v2/metrics/node"}
)  # fmt: skip
#: Requests under these paths never name a bucket (§2.1); /health and /metrics are too short or reserved as buckets
#: only in their exact form.
_RESERVED: Final = "/minio/"


class Access(NamedTuple):
    """One line of the access log and one observation of the metrics. No signature, token or query is in it."""

    method: str
    bucket: str
    key: bytes
    operation: str
    status: int
    error: str
    peer: str
    access_key: str
    request_id: str
    seconds: float
    body_length: int | None


Observer = Callable[[Access], None]


class S3Application(Application):
    """One gateway over one volume.

    probe: can the volume be reached? metrics: the text of /metrics. observe: called after each answer was made, must be
    cheap and not raise.
    """

    def __init__(
        self, fs: FileSystem, config: S3Config, credentials: Credentials, clock: Callable[[], int] = time.time_ns, *,
        caller: Caller = ROOT_CALLER, probe: Probe | None = None, metrics: Metrics | None = None,
        observe: Observer | None = None, monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.service = Service(fs, config, clock=clock, caller=caller, monotonic=monotonic)
        self.config = config
        self.credentials = credentials
        self.probe = probe
        self.metrics = metrics
        self.observe = observe
        self._clock = clock
        self._monotonic = monotonic
        self._region = config.region or None

    async def __call__(self, request: Request) -> Response:
        request_id = f"{random.getrandbits(64):016X}"
        started = self._monotonic()
        call = Call(request, request_id)
        code = ""
        try:
            special = await self._reserved(request) if request.raw_path[:8] in _SPECIAL_STARTS else None
            response = special if special is not None else await self._serve(call)
        except Exception as e:
            error = from_exception(e, call.context)
            code = error.code
            if error.status >= 500 and code != "NotImplemented":
                _log_failure(call, error, e)
            response = self._failure(call, error, e)
        if request.body.length == 0 and "expect" in request.headers:
            # botocore keeps the status of a final answer that came instead of "100 Continue" for the next request of
            # the connection, too; a server that sends no 100 for empty bodies has to end the connection.
            response.close = True
        response.headers.append(("x-amz-request-id", request_id))
        response.headers.append(("x-amz-id-2", _HOST_ID))
        if self.observe is not None:
            self.observe(self._access(call, response, code, self._monotonic() - started))
        return response

    async def _serve(self, call: Call) -> Response:
        request = call.request
        config = self.config
        if config.domains:
            call.host_bucket = bucket_from_host(request.headers.get("host", ""), config.domains)
        call.bucket, call.key = parse_path(request.raw_path, call.host_bucket)
        call.auth = auth = authenticate(
            request, self.credentials, now=self._clock() / 1e9, region=self._region, allow_anonymous=True,
            allow_sigv2=config.sigv2, host_bucket=call.host_bucket, explain=config.debug_errors,
        )  # fmt: skip
        if request.query_string:
            call.params = parse_query(request.query_string)
            if auth.kind is Kind.PRESIGNED_V4:
                hoisted = hoisted_headers(request.query_string)
                if hoisted:
                    call.headers = {**hoisted, **call.headers}
        operation = operation_of(call.method, call.bucket, call.key, call.params, call.headers)
        call.operation = operation
        if auth.payload.chunked and operation not in _STREAMING:
            raise S3Error("InvalidRequest", "aws-chunked bodies are only legal for PutObject and UploadPart.")
        handler = HANDLERS.get(operation)
        if handler is None:
            raise S3Error("NotImplemented", f"{operation} is not implemented by this gateway.")
        call.context = CONTEXTS.get(operation, Context.READ)
        service = self.service
        if call.bucket:
            if operation != "CreateBucket":
                service.check_bucket(call.bucket)
            if operation not in _AUTHORIZE_THEMSELVES:
                service.authorize(action_of(operation), call.bucket, call.key, auth)
            expected = call.headers.get("x-amz-expected-bucket-owner")
            if expected is not None and expected != service.owner(auth.identity)[0]:
                raise S3Error("AccessDenied", "The bucket belongs to another owner.")
        return await handler(service, call)

    # -- what isn't S3 -------------------------------------------------------------------------------------------

    async def _reserved(self, request: Request) -> Response | None:
        """Health and metrics; None: an ordinary request."""
        path = request.raw_path
        if len(path) <= 8 and (request.query_string or "authorization" in request.headers):
            return None  # a signed request means the bucket of that name
        if path in _LIVE or path in _READY:
            if request.method not in ("GET", "HEAD"):
                raise S3Error("MethodNotAllowed")
            if path != "/minio/health/live" and self.probe is not None and not await self._reachable():
                return Response(503, [("Retry-After", "1")])
            return Response(200)
        if path in _METRICS and self.metrics is not None:
            return Response(200, [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")], await self.metrics())
        if path.startswith(_RESERVED) or path == "/minio":
            raise S3Error("NotImplemented", "The administration API is not implemented by this gateway.")
        return None

    async def _reachable(self) -> bool:
        assert self.probe is not None
        try:
            async with asyncio.timeout(5):
                return await self.probe()
        except Exception as e:
            log.warning("health: the volume can't be reached: %s", e)
            return False

    # -- failures ------------------------------------------------------------------------------------------------

    def refusal(self, error: BadRequest) -> Response:
        return _bare_error(error.status, error.code, error.message)

    def failure(self, request: Request, error: BaseException) -> Response:
        answer = from_exception(error) if isinstance(error, OSError) else S3Error("InternalError")
        # The object was found: what failed later is no answer about the request.
        answer = answer if answer.status >= 500 else S3Error("InternalError")
        response = _bare_error(answer.status, answer.code, answer.message)
        response.headers.extend(answer.headers)
        return response

    def _failure(self, call: Call, error: S3Error, cause: BaseException) -> Response:
        headers = list(error.headers)
        close = isinstance(cause, IncompleteBody | SlowBody)
        if error.status == 304:
            return Response(304, headers, close=close)
        key = key_text(call.key) if call.key else None
        resource = f"/{call.bucket}" if call.bucket else "/"
        if key:
            resource += f"/{key}"
        body = error_xml(
            error, resource=resource, request_id=call.request_id, host_id=_HOST_ID, bucket=call.bucket, key=key
        )
        headers.append(XML_TYPE)
        return Response(error.status, headers, body, close=close)

    def _access(self, call: Call, response: Response, code: str, seconds: float) -> Access:
        auth = getattr(call, "auth", None)
        access_key = auth.identity.access_key if auth is not None else ""
        return Access(
            call.method, call.bucket, call.key, call.operation, response.status, code, call.request.peer, access_key,
            call.request_id, seconds, call.request.body.length,
        )  # fmt: skip


#: First eight characters of paths that may be reserved: one cheap test for all others.
_SPECIAL_STARTS: Final = frozenset({"/health", "/metrics", "/minio/h", "/minio/v", "/minio/p", "/minio/a", "/minio"})

_STREAMING: Final = frozenset({"PutObject", "UploadPart"})

#: The bucket policy is asked per key, or the answer to the unentitled is no error.
_AUTHORIZE_THEMSELVES: Final = frozenset({"DeleteObjects", "ListBuckets", "Preflight", "PostObject"})


def _bare_error(status: int, code: str, message: str) -> Response:
    """An answer that names no resource: the request never reached a handler, or its body broke off at the start."""
    request_id = secrets.token_hex(8).upper()
    body = (
        f"{DECLARATION}<Error><Code>{code}</Code><Message>{escape(message)}</Message>"
        f"<RequestId>{request_id}</RequestId></Error>"
    )
    return Response(status, [XML_TYPE, ("x-amz-request-id", request_id)], body.encode(), close=True)


def _log_failure(call: Call, error: S3Error, cause: BaseException) -> None:
    """What the client isn't told. Paths and causes belong here; the query (signatures) doesn't."""
    known = isinstance(cause, S3Error | OSError)
    log.error(
        "%s %s/%s answered %s %s (request %s): %s", call.operation or call.method, call.bucket,
        key_text(call.key).encode("utf-8", "backslashreplace").decode(), error.status, error.code, call.request_id,
        cause.__cause__ or cause, exc_info=None if known else cause,
    )  # fmt: skip
