# SPDX-License-Identifier: Apache-2.0
"""The error table, errno to S3, and the error document."""

from __future__ import annotations

import errno
from xml.etree import ElementTree

import pytest

from core.errors import FsError, MetaError, ObjectError, ObjectNotFound
from gateways.http.messages import IncompleteBody, SlowBody
from gateways.s3.errors import CODES, Context, S3Error, error_xml, from_errno, from_exception


def test_every_code_has_an_error_status_and_a_sentence():
    for code, (status, message) in CODES.items():
        assert 300 <= status < 600, code
        assert message.endswith((".", "again.")), code
        assert code.isalnum(), code


@pytest.mark.parametrize(
    ("number", "context", "expected"),
    [
        (errno.ENOENT, Context.READ, (404, "NoSuchKey")),
        (errno.ENOENT, Context.BUCKET, (404, "NoSuchBucket")),
        (errno.ENOENT, Context.UPLOAD, (404, "NoSuchUpload")),
        (errno.ENOTDIR, Context.READ, (404, "NoSuchKey")),
        (errno.ENOTDIR, Context.WRITE, (409, "ObjectParentIsFile")),
        (errno.EISDIR, Context.READ, (404, "NoSuchKey")),
        (errno.EISDIR, Context.WRITE, (409, "ExistingObjectIsDirectory")),
        (errno.EEXIST, Context.WRITE, (409, "ExistingObjectIsDirectory")),
        (errno.ENOTEMPTY, Context.WRITE, (409, "ExistingObjectIsDirectory")),
        (errno.ENOTEMPTY, Context.BUCKET, (409, "BucketNotEmpty")),
        (errno.EACCES, Context.READ, (403, "AccessDenied")),
        (errno.EPERM, Context.WRITE, (403, "AccessDenied")),
        (errno.EROFS, Context.WRITE, (403, "AccessDenied")),
        (errno.ENOSPC, Context.WRITE, (507, "InsufficientStorage")),
        (errno.EDQUOT, Context.WRITE, (403, "QuotaExceeded")),
        (errno.ENAMETOOLONG, Context.WRITE, (400, "KeyTooLongError")),
        (errno.ELOOP, Context.READ, (404, "NoSuchKey")),
        (errno.ETIMEDOUT, Context.READ, (503, "ServiceUnavailable")),
        (errno.EIO, Context.READ, (500, "InternalError")),
        (errno.EINVAL, Context.READ, (500, "InternalError")),
    ],
)
def test_errno_table(number, context, expected):
    error = from_errno(FsError(number, "/secret/path: private detail"), context)
    assert (error.status, error.code) == expected
    assert "secret" not in error.message
    assert "private" not in error.message
    assert bool(error.headers) == (error.status == 503)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MetaError("engine away", retryable=True), (503, "SlowDown")),
        (MetaError("engine broken"), (500, "InternalError")),
        (ObjectError("429"), (503, "SlowDown")),
        (ObjectNotFound("block lost"), (500, "InternalError")),
        (TimeoutError(), (503, "ServiceUnavailable")),
        (IncompleteBody(), (400, "IncompleteBody")),
        (SlowBody(), (400, "RequestTimeout")),
        (ZeroDivisionError(), (500, "InternalError")),
        (S3Error("NoSuchTagSet"), (404, "NoSuchTagSet")),
    ],
)
def test_other_exceptions(error, expected):
    found = from_exception(error)
    assert (found.status, found.code) == expected


def test_the_error_document():
    error = S3Error("InvalidRange", extra=[("ActualObjectSize", "5")])
    body = error_xml(error, resource="/b/k<", request_id="0123456789ABCDEF", host_id="h", bucket="b", key="k<\x01")
    assert body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InvalidRange</Code>')
    root = ElementTree.fromstring(body.replace(b"&#x1;", b"?"))
    assert [(e.tag, e.text) for e in root][2:] == [
        ("Key", "k<?"), ("BucketName", "b"), ("ActualObjectSize", "5"), ("Resource", "/b/k<"),
        ("RequestId", "0123456789ABCDEF"), ("HostId", "h"),
    ]  # fmt: skip
