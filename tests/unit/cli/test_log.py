# SPDX-License-Identifier: Apache-2.0
"""Log lines: the form that log readers know, JSON for machines, and no secret in either (cli §1.5)."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from core import log


@pytest.fixture(params=["text", "json"])
def sink(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO, logging.Logger]]:
    stream = io.StringIO()
    handler = log.setup("debug", form=request.param, stream=stream, log_id="job", loggers=("sluice-test",))
    logger = logging.getLogger("sluice-test")
    yield request.param, stream, logger
    logger.removeHandler(handler)


Sink = tuple[str, io.StringIO, logging.Logger]


def test_a_line_has_time_level_place_and_fields(sink: Sink) -> None:
    form, stream, logger = sink
    logger.warning("slow %s", "read", extra={"fields": {"ino": 7}})
    line = stream.getvalue()
    assert line.endswith("\n") and line.count("\n") == 1
    if form == "json":
        event = json.loads(line)
        assert event["message"] == "slow read" and event["level"] == "warning" and event["fields"] == {"ino": 7}
        assert event["id"] == "job" and event["time"].endswith("Z")
    else:
        assert re.fullmatch(
            r"\[job\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} "
            r"sluice\[\d+\] <WARNING>: slow read ino=7 \[\w+@\w+\.py:\d+\]\n",
            line,
        )


@pytest.mark.parametrize(
    "text",
    [
        "connect redis://user:hunter22@host:6379/1 failed",
        "connect redis://:hunter22@host/1",
        "secret_key=hunter22 rejected",
        'header {"X-Amz-Security-Token": "hunter22"}',
        "GET /b?X-Amz-Signature=hunter22&x=1",
        "MINIO_ROOT_PASSWORD=hunter22",
        "AWS_SECRET_ACCESS_KEY: hunter22",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter22\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nhunter22",
    ],
)
def test_what_looks_like_a_secret_is_masked(sink: Sink, text: str) -> None:
    _, stream, logger = sink
    logger.error("%s", text)
    assert "hunter22" not in stream.getvalue()
    assert "****" in stream.getvalue()


def test_known_secrets_are_masked_wherever_they_stand(sink: Sink) -> None:
    _, stream, logger = sink
    log.hide("correct horse battery", None, "")
    try:
        raise ValueError("server said: correct horse battery")
    except ValueError:
        logger.exception("odd", extra={"fields": {"reply": "correct horse battery!"}})
    assert "horse" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_ordinary_text_stays(sink: Sink) -> None:
    _, stream, logger = sink
    logger.info("volume demo at http://127.0.0.1:9000, 3 keys, token bucket 10 MiB/s")
    assert "http://127.0.0.1:9000, 3 keys, token bucket 10 MiB/s" in stream.getvalue()
