# SPDX-License-Identifier: Apache-2.0
"""Any S3 endpoint as an object store: address forms, credentials, signatures, the protocol, and a second client.

Source: spec data-path §3.4, §4.1, §4.2, §4.4; AWS Signature Version 4; Amazon S3 API reference.
"""

from core.object.s3.address import Address, parse_bucket
from core.object.s3.store import S3Store

__all__ = ["Address", "S3Store", "parse_bucket"]
