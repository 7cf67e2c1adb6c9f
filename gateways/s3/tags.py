# SPDX-License-Identifier: Apache-2.0
"""Tags of objects and buckets: rules, and the query form of the header and of the xattr `s3-tags`.

Source: spec s3 §11.8 (rules), §4.1 (`k1=v1&k2=v2`), §9 and §17 (numbers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote_plus, unquote_to_bytes

from gateways.s3.errors import S3Error

MAX_OBJECT_TAGS = 10
MAX_BUCKET_TAGS = 50
MAX_TAG_KEY = 128
MAX_TAG_VALUE = 256

_PUNCTUATION = frozenset(" +-=._:/@")


def _legal(text: str) -> bool:
    return all(c in _PUNCTUATION or c.isalnum() for c in text)


def check_tags(tags: Sequence[tuple[str, str]], *, limit: int = MAX_OBJECT_TAGS) -> None:
    """400 `BadRequest` for too many, 400 `InvalidTag` for a bad one."""
    if len(tags) > limit:
        what = "Object tags" if limit == MAX_OBJECT_TAGS else "Bucket tag count"
        raise S3Error("BadRequest", f"{what} cannot be greater than {limit}.")
    seen = set()
    for key, value in tags:
        if not 1 <= len(key) <= MAX_TAG_KEY or not _legal(key):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid.", extra=(("TagKey", key[:256]),))
        if len(value) > MAX_TAG_VALUE or not _legal(value):
            raise S3Error(
                "InvalidTag", "The TagValue you have provided is invalid.",
                extra=(("TagKey", key), ("TagValue", value[:512])),
            )  # fmt: skip
        if key in seen:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key.", extra=(("TagKey", key),))
        seen.add(key)


def parse_tag_query(text: str) -> list[tuple[str, str]]:
    """Pairs of `x-amz-tagging` or of the xattr, unchecked. Percent-encoded UTF-8; `+` is a space."""
    tags = []
    for part in text.split("&"):
        if not part:
            continue
        key, _, value = part.partition("=")
        try:
            tags.append((_decode(key), _decode(value)))
        except (UnicodeDecodeError, UnicodeEncodeError):
            raise S3Error("InvalidTag", "A tag is not valid UTF-8.") from None
    return tags


def _decode(text: str) -> str:
    # Header text is latin-1; bytes above ASCII are UTF-8 that was not percent-encoded.
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode()


def format_tag_query(tags: Iterable[tuple[str, str]]) -> str:
    """As the xattr stores it."""
    return "&".join([f"{quote_plus(key)}={quote_plus(value)}" for key, value in tags])
