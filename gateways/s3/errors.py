# SPDX-License-Identifier: Apache-2.0
"""S3 errors: one table of codes with status and default message, errno to code, and the XML body.

Handlers raise `S3Error("NoSuchKey")`; the application renders it once. Texts that clients see never contain errno
messages or volume paths: those go to the log (`S3Error.__cause__`).
Source: spec s3 §8 (body), §16 (errno table); statuses of the AWS error-code list.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Sequence

from core.errors import ObjectError
from gateways.http.messages import IncompleteBody, SlowBody
from gateways.s3.xml_text import DECLARATION, escape

#: code -> (HTTP status, default message). The message says what to do where the code alone does not.
CODES: dict[str, tuple[int, str]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs."),
    "AccessDenied": (403, "Access Denied."),
    "AccessForbidden": (403, "CORSResponse: This CORS request is not allowed."),
    "AllAccessDisabled": (403, "This name is reserved by the file system and can't be reached through S3."),
    "AuthorizationHeaderMalformed": (400, "The authorization header that you provided is not valid."),
    "AuthorizationQueryParametersError": (400, "The authorization query parameters that you provided are not valid."),
    "BadDigest": (400, "The Content-MD5 or checksum value that you specified did not match what the server received."),
    "BadRequest": (400, "Bad Request."),
    "BucketAlreadyExists": (
        409,
        "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
        "Specify a different name and try again.",
    ),
    "BucketAlreadyOwnedByYou": (409, "The bucket that you tried to create already exists, and you own it."),
    "BucketNotEmpty": (409, "The bucket that you tried to delete is not empty."),
    "ConditionalRequestConflict": (409, "A conflicting operation changed the key during this request. Retry it."),
    "CrossLocationLoggingProhibited": (403, "Cross-Region logging is not allowed."),
    "DirectoryObjectContainsData": (400, "A key that ends in a slash names a directory and must have no content."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed object size."),
    "ExistingObjectIsDirectory": (409, "A directory with this name exists."),
    "ExpiredToken": (400, "The provided token has expired."),
    "IdempotencyParameterMismatch": (400, "The client token was used before with other parameters."),
    "IllegalLocationConstraintException": (400, "The location constraint does not fit this endpoint."),
    "IncompleteBody": (400, "You did not provide the number of bytes specified by the Content-Length header."),
    "InsufficientStorage": (507, "The volume has no space left. Delete objects or raise its capacity."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The access key ID that you provided does not exist in our records."),
    "InvalidArgument": (400, "Invalid argument."),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidBucketState": (409, "The request is not valid for the current state of the bucket."),
    "InvalidChunkSizeError": (400, "Only the last chunk is allowed to have a size less than 8192 bytes."),
    "InvalidDigest": (400, "The Content-MD5 or checksum value that you specified is not valid."),
    "InvalidEncryptionAlgorithmError": (400, "The encryption request that you specified is not valid."),
    "InvalidLocationConstraint": (400, "The specified location (Region) constraint is not valid."),
    "InvalidObjectState": (403, "The operation is not valid for the current state of the object."),
    "InvalidPart": (
        400,
        "One or more of the specified parts could not be found. The part might not have been uploaded, or the "
        "specified entity tag or checksum might not match the part's.",
    ),
    "InvalidPartNumber": (416, "The requested partnumber is not satisfiable."),
    "InvalidPartOrder": (400, "The list of parts was not in ascending order of part number."),
    "InvalidPolicyDocument": (400, "The content of the form does not meet the conditions of the policy document."),
    "InvalidRange": (416, "The requested range is not satisfiable."),
    "InvalidRequest": (400, "Invalid request."),
    "InvalidStorageClass": (400, "The storage class that you specified is not valid."),
    "InvalidTag": (400, "The tag provided was not a valid tag."),
    "InvalidTokenId": (403, "The session token is missing or does not belong to the access key."),
    "InvalidURI": (400, "The specified URI couldn't be parsed: its percent-encoding is broken."),
    "KeyTooLongError": (400, "Your key, or one segment of it, is too long."),
    "MalformedACLError": (400, "The ACL that you provided was not well formed."),
    "MalformedPOSTRequest": (400, "The body of your POST request is not well-formed multipart/form-data."),
    "MalformedPolicy": (400, "Your policy contains a principal, action or resource that is not valid."),
    "MalformedTrailerError": (400, "The request contained trailing data that was not well-formed."),
    "MalformedXML": (400, "The XML that you provided was not well formed or did not validate."),
    "MaxMessageLengthExceeded": (400, "Your request was too large."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size of 2 KiB."),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingRequestBodyError": (400, "The request body is empty."),
    "MissingSecurityHeader": (400, "Your request is missing a required header."),
    "NoSuchBucket": (404, "The specified bucket does not exist."),
    "NoSuchBucketPolicy": (404, "The bucket policy does not exist."),
    "NoSuchCORSConfiguration": (404, "The CORS configuration does not exist."),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": (404, "The lifecycle configuration does not exist."),
    "NoSuchObjectLockConfiguration": (404, "The object does not have an object-lock configuration."),
    "NoSuchPublicAccessBlockConfiguration": (404, "The public access block configuration was not found."),
    "NoSuchTagSet": (404, "There is no tag set associated with the bucket."),
    "NoSuchUpload": (
        404,
        "The specified multipart upload does not exist. The upload ID might not be valid, or the multipart upload "
        "might have been aborted or completed.",
    ),
    "NoSuchVersion": (404, "The version ID specified in the request does not match an existing version."),
    "NoSuchWebsiteConfiguration": (404, "The specified bucket does not have a website configuration."),
    "NotImplemented": (501, "A header or parameter that you provided implies functionality that is not implemented."),
    "NotModified": (304, "Not Modified."),
    "ObjectLockConfigurationNotFoundError": (404, "Object Lock configuration does not exist for this bucket."),
    "ObjectParentIsFile": (409, "A parent of this key is an object, so nothing can be stored below it."),
    "OperationAborted": (409, "A conflicting conditional operation is in progress on this resource. Try again."),
    "OwnershipControlsNotFoundError": (404, "The bucket ownership controls were not found."),
    "PermanentRedirect": (301, "The bucket must be addressed using another endpoint."),
    "PolicyTooLarge": (400, "Your policy exceeds the maximum allowed document size of 20 KiB."),
    "PreconditionFailed": (412, "At least one of the preconditions that you specified did not hold."),
    "QuotaExceeded": (403, "The quota of this directory, user or volume is used up."),
    "ReplicationConfigurationNotFoundError": (404, "There is no replication configuration for this bucket."),
    "RequestHeaderSectionTooLarge": (400, "Your request header section exceeds the maximum allowed size."),
    "RequestTimeTooSkewed": (
        403,
        "The difference between the request time and the server's time is too large. Check the client's clock.",
    ),
    "RequestTimeout": (400, "Your socket connection to the server was not read from or written to in time."),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The encryption configuration was not found."),
    "ServiceUnavailable": (503, "The service can't reach its volume right now. Please try again."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature that the server calculated does not match the signature that you provided. "
        "Check your secret key and signing method.",
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "TooManyBuckets": (400, "You have attempted to create more buckets than are allowed."),
    "UnexpectedContent": (400, "This request contains unsupported content."),
    "UnsupportedSignature": (400, "The request is signed with a signature version that is not supported."),
    "XAmzContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
}  # fmt: skip

#: Seconds that a client should wait before it tries again.
RETRY_AFTER = "1"


class S3Error(Exception):
    """An answer of the S3 protocol that isn't a success.

    extra: further XML elements, in order. headers: further response headers. Message, extra and headers are sent to the
    client as they are: no secrets, no paths of the volume.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        extra: Sequence[tuple[str, str]] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        default_status, default_message = CODES[code]
        self.code = code
        self.status = default_status if status is None else status
        self.message = default_message if message is None else message
        self.extra = tuple(extra)
        self.headers = tuple(headers)
        super().__init__(code, self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Context(enum.Enum):
    """What the failed file-system call was for; decides what ENOENT and its like mean."""

    READ = "read"
    WRITE = "write"  # publish of a key; also its copy and rename
    DELETE = "delete"
    BUCKET = "bucket"  # the bucket itself
    UPLOAD = "upload"  # files of a multipart upload


_MISSING = {Context.BUCKET: "NoSuchBucket", Context.UPLOAD: "NoSuchUpload"}

#: errno -> code, where the context does not matter.
_ERRNO = {
    errno.EACCES: "AccessDenied",
    errno.EPERM: "AccessDenied",
    errno.EROFS: "AccessDenied",
    errno.ENOSPC: "InsufficientStorage",
    errno.EDQUOT: "QuotaExceeded",
    errno.ENAMETOOLONG: "KeyTooLongError",
    errno.EFBIG: "EntityTooLarge",
    errno.EOPNOTSUPP: "NotImplemented",
    errno.ENOSYS: "NotImplemented",
    # Over some limit of this process or of the engine: the same request may succeed later.
    errno.EAGAIN: "SlowDown",
    errno.EBUSY: "SlowDown",
    errno.EMFILE: "SlowDown",
    errno.ENFILE: "SlowDown",
    errno.ENOMEM: "SlowDown",
    # The engine is away.
    errno.ETIMEDOUT: "ServiceUnavailable",
    errno.ECONNREFUSED: "ServiceUnavailable",
    errno.ECONNRESET: "ServiceUnavailable",
    errno.ECONNABORTED: "ServiceUnavailable",
    errno.EHOSTUNREACH: "ServiceUnavailable",
    errno.ENETUNREACH: "ServiceUnavailable",
    errno.ENOTCONN: "ServiceUnavailable",
    errno.EPIPE: "ServiceUnavailable",
}


def from_errno(error: OSError, context: Context = Context.READ) -> S3Error:
    """The S3 answer to a file-system error; set `__cause__` by raising it `from error`.

    DELETE of a missing key is success: the handler tests for ENOENT before it comes here.
    """
    number = error.errno or 0
    if number in (errno.ENOENT, errno.ELOOP, errno.ESTALE):
        return S3Error(_MISSING.get(context, "NoSuchKey"))
    if number == errno.ENOTDIR:
        if context is Context.WRITE:
            return S3Error("ObjectParentIsFile")
        return S3Error(_MISSING.get(context, "NoSuchKey"))
    if number in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        if context is Context.WRITE:
            return S3Error("ExistingObjectIsDirectory")
        if context is Context.BUCKET:
            return S3Error("BucketAlreadyOwnedByYou" if number == errno.EEXIST else "BucketNotEmpty")
        if number == errno.EISDIR:
            return S3Error(_MISSING.get(context, "NoSuchKey"))
    code = _ERRNO.get(number)
    if code is None:
        code = "SlowDown" if getattr(error, "retryable", False) else "InternalError"
    return _retriable(code)


def _retriable(code: str) -> S3Error:
    return S3Error(code, headers=(("Retry-After", RETRY_AFTER),) if CODES[code][0] == 503 else ())


def from_exception(error: BaseException, context: Context = Context.READ) -> S3Error:
    """The S3 answer to whatever a handler raised. Anything unknown is an InternalError: log it with its traceback."""
    if isinstance(error, S3Error):
        return error
    if isinstance(error, TimeoutError) and not error.errno:  # asyncio.timeout: an OSError without errno
        return _retriable("ServiceUnavailable")
    if isinstance(error, OSError):
        return from_errno(error, context)
    if isinstance(error, ObjectError):
        return _retriable("SlowDown" if error.retryable else "InternalError")
    if isinstance(error, IncompleteBody):
        return S3Error("IncompleteBody")
    if isinstance(error, SlowBody):
        return S3Error("RequestTimeout")
    return S3Error("InternalError")


def error_xml(
    error: S3Error, *, resource: str, request_id: str, host_id: str, bucket: str = "", key: str | None = None
) -> bytes:
    """The error document (no namespace). resource: decoded path of the request. key: given when one was addressed."""
    parts = [
        DECLARATION,
        "<Error><Code>",
        error.code,
        "</Code><Message>",
        escape(error.message),
        "</Message>",
    ]
    if key:
        parts += ("<Key>", escape(key), "</Key>")
    if bucket:
        parts += ("<BucketName>", escape(bucket), "</BucketName>")
    for name, value in error.extra:
        parts += ("<", name, ">", escape(value), "</", name, ">")
    parts += (
        "<Resource>", escape(resource), "</Resource><RequestId>", request_id,
        "</RequestId><HostId>", escape(host_id), "</HostId></Error>",
    )  # fmt: skip
    return "".join(parts).encode("utf-8", "replace")
