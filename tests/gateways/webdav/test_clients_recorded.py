# SPDX-License-Identifier: Apache-2.0
"""What davfs2, rclone and GVfs sent in a recorded visit, sent again: each request has the answer that it had.

The clients needn't be installed, and a change that they would trip over names the request. `recorded/record.py` makes
the recordings. Source: spec webdav §18.3–§18.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.webdav.door import Door, token_of
from tests.gateways.webdav.test_clients_rclone import PREFIX

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))


@pytest.fixture(params=RECORDED, ids=[path.stem for path in RECORDED])
def recording(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


@pytest.fixture(scope="module")
def doors(door: Door, meta_url: str) -> Iterator[dict[str, Door]]:
    """By prefix. Each recording removes what it made, so one volume does for all."""
    with Door(meta_url, "--prefix", PREFIX) as below:
        yield {"": door, PREFIX: below}


def test_recorded_requests_have_the_answers_that_they_had(doors: dict[str, Door], recording: dict[str, Any]) -> None:
    fresh = doors[recording["prefix"]]
    token, etags = "", dict[str, str]()

    def filled(value: str) -> str:
        value = value.replace("{url}", fresh.url).replace("{token}", token)
        return re.sub(r"\{etag ([^}]*)\}", lambda found: etags[found[1]], value)

    for method, target, headers, body, status in recording["requests"]:
        sent = {name: filled(value) for name, value in headers.items()}
        data = body.encode() if isinstance(body, str) else bytes(body)
        answer = fresh.ask(method, target, sent, data if data or method == "PUT" else None)
        assert answer.status == status, f"{method} {target} {sent}: {answer.body[:500]!r}"
        if answer.status == 207 and method == "PROPFIND":
            assert answer.texts("{DAV:}href") and answer.headers["dav"]
        if "etag" in answer.headers:
            etags[target] = answer.etag
        if method == "LOCK" and "lock-token" in answer.headers:
            token = token_of(answer)
