# SPDX-License-Identifier: Apache-2.0
"""What OpenDAL's exceptions mean to us, and how they read without a secret in them.

Its texts are a page long: the request's URL (which carries a SAS token), headers, a backtrace. We keep the service's
code, its message and the cause of a broken connection. `raise … from None` throughout: the original would bring the
whole page, token included, into every traceback. Source: OpenDAL's error format (kind, status word, context, source).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.object.s3.answers import is_retryable

#: The container is missing, which is no answer about a key although it comes as 404 as well.
MISSING_CONTAINERS = (
    "ContainerNotFound",
    "NoSuchBucket",
    "NoSuchContainer",
    "bucket does not exist",
    "FilesystemNotFound",
)

ADVICE = {
    "PermissionDenied": "check the credentials and what they may do",
    "RateLimited": "the service asks for fewer requests",
    "AuthenticationFailed": "check the account's key or token, and this machine's clock",
    "AuthorizationFailure": "check the account's key or token, and its network rules",
    "ContainerBeingDeleted": "wait until the container is gone, or use another name",
    "InvalidAccessKeyId": "check the access key",
    "SignatureDoesNotMatch": "check the secret key",
    "NoSuchBucket": "create the bucket or check its name",
    "NoSuchContainer": "create the container or check its name",
    "ContainerNotFound": "create the container or check its name",
}

# Values of query parameters and fields that carry a right: SAS signatures, signed URLs, tokens.
_SECRET_FIELDS = re.compile(
    r"(?i)\b(sig|signature|x-[a-z]+-signature|x-[a-z-]*security-token|token|access_token|authorization|accountkey)"
    r"(\"?\s*[=:]\s*\"?)(?:(?:bearer|basic|sharedkey)\s+)?[^&\s\",;}]+"
)


#: OpenDAL's words when its chain of providers has found nothing.
NO_KEYS = "failed to load signing credential"

#: What is done to one key; the answer "not found" is about that key.
KEYED = ("get", "head", "delete", "list folder")


class Failure(NamedTuple):
    """An OpenDAL exception, taken apart."""

    kind: str  # the class: NotFound, Unexpected …
    temporary: bool
    status: int  # HTTP, 0 = none
    code: str  # the service's own word
    text: str


def read_failure(error: BaseException, secrets: Iterable[str] = ()) -> Failure:
    """The telling parts of an exception, secrets struck out."""
    kind = type(error).__name__
    page = str(error).split("\nBacktrace:")[0]
    head = page.split("\n", 1)[0]
    status = re.search(r"\bstatus: (\d{3})\b", page)
    code = re.search(r'(?<![\w-])code: "([^"]+)"', page) or re.search(r'"x-ms-error-code": "([^"]+)"', page)
    message = re.search(r'\bmessage: "((?:[^"\\]|\\.)*)"', page)
    xml = re.search(r"<Code>([^<]+)</Code>", page)
    source = page.partition("\nSource:\n")[2].strip().split("\n")[0].strip()
    told = message[1] if message and message[1] else head.partition(" => ")[2] or head
    if source:
        told = f"{told}: {source}"
    # Request ids and the time help nobody here and would make equal errors look different.
    told = re.split(r"\s*(?:\\n)?RequestId:", told)[0]
    word = code[1] if code else xml[1] if xml else ""
    return Failure(kind, "(temporary)" in head, int(status[1]) if status else 0, word, scrub(told, secrets)[:300])


#: OpenDAL's words for an answer shorter than the range; the second for azurite's odd `bytes 300-299/300`.
_SHORT = ("reader got too little data", "header content range is invalid")


def is_past_the_end(error: BaseException) -> bool:
    """A range that goes on behind the object's end: refused by the service, or shorter than OpenDAL expects."""
    if type(error).__name__ == "RangeNotSatisfied" or any(word in str(error) for word in _SHORT):
        return True
    return read_failure(error).status == 416


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Without the secrets that we know, and without what looks like one."""
    for secret in secrets:
        if len(secret) >= 4:  # shorter ones would strike out half the alphabet and protect nothing
            text = text.replace(secret, "***")
    return " ".join(_SECRET_FIELDS.sub(r"\1\2***", text).split())


def failure_of(
    store: str, action: str, key: str, error: BaseException, secrets: Iterable[str] = (), keys_hint: str = ""
) -> ObjectError | ConfigError:
    """Our error for one of OpenDAL's, to be raised `from None`."""
    found = read_failure(error, secrets)
    what = f"{action} of {key!r}" if key else action
    missing_container = found.code in MISSING_CONTAINERS or any(word in found.text for word in MISSING_CONTAINERS)
    if found.kind in ("NotFound", "IsADirectory") and not missing_container and action in KEYED:
        return ObjectNotFound(f"{store}: no object {key!r}")
    if keys_hint and NO_KEYS in found.text:
        return ObjectError(f"{store}: {what} failed: no credentials were found; {keys_hint}", retryable=False)
    advice = ADVICE.get(found.code) or ADVICE.get(found.kind, "")
    if missing_container:
        advice = advice or ADVICE["NoSuchBucket"]
    status = f" with {found.status} {found.code}".rstrip() if found.status else ""
    verb = f"was refused{status}" if found.status else "failed"
    retryable = found.temporary or found.kind == "RateLimited" or is_retryable(found.status, found.code)
    return ObjectError(
        f"{store}: {what} {verb}: {found.text.rstrip('. ')}{advice and '; ' + advice}", retryable=retryable
    )
