# SPDX-License-Identifier: Apache-2.0
"""TiKV metadata URLs (format §6.1): forms, prefix, options, the shards of the change log; and what errors mean."""

from __future__ import annotations

import pytest

pytest.importorskip("tikv_client", reason="pip install tikv-client==0.0.4")

from core.errors import ConfigError, MetaError
from core.meta.stores.tikv import failures
from core.meta.stores.tikv.store import TiKVStore, shards_from
from core.meta.stores.tikv.url import parse_url


@pytest.mark.parametrize(
    ("text", "endpoints", "prefix"),
    [
        ("tikv://pd1:2379/jfs", ("pd1:2379",), b"jfs\xfd"),
        ("tikv://pd1/jfs", ("pd1:2379",), b"jfs\xfd"),
        ("tikv://pd1:2379", ("pd1:2379",), b"\xfd"),
        ("tikv://pd1:2379/", ("pd1:2379",), b"\xfd"),
        ("tikv://pd1:2379///a/b", ("pd1:2379",), b"a/b\xfd"),
        ("tikv://pd1:2379/a/b/", ("pd1:2379",), b"a/b/\xfd"),
        ("TIKV://pd1:1,pd2,pd3:3/x?gc-interval=0", ("pd1:1", "pd2:2379", "pd3:3"), b"x\xfd"),
        ("tikv://pd1,pd1:2379, pd2/x", ("pd1:2379", "pd2:2379"), b"x\xfd"),
        ("tikv://[::1]:5,[fe80::2]/v", ("[::1]:5", "[fe80::2]:2379"), b"v\xfd"),
        ("tikv://pd/my%20vol%ff", ("pd:2379",), b"my vol\xff\xfd"),
    ],
)
def test_forms(text: str, endpoints: tuple[str, ...], prefix: bytes) -> None:
    url = parse_url(text)
    assert (url.endpoints, url.prefix) == (endpoints, prefix)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ("", 10800),
        ("?gc-interval=6h", 21600),
        ("?gc-interval=10m", 3600),
        ("?gc_interval=0", 0),
        ("?gc-interval=", 10800),
    ],
)
def test_how_long_old_versions_are_kept(options: str, seconds: float) -> None:
    assert parse_url(f"tikv://pd/v{options}").gc_interval_s == seconds


def test_options_of_other_clients_that_mean_nothing_here_are_accepted() -> None:
    parse_url("tikv://pd/v?open-tso-follower-proxy=true&max-tso-batch-wait-interval=10ms&ca=&verify-cn=")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("etcd://pd/v", "tikv://PD1"),
        ("tikv:///v", "no placement driver"),
        ("tikv://,/v", "no placement driver"),
        ("tikv://:2379/v", "has no host"),
        ("tikv://pd:port/v", "'port'"),
        ("tikv://pd:70000/v", "70000"),
        ("tikv://::1/v", "brackets"),
        ("tikv://[::1/v", r"\[::1\]:2379"),
        ("tikv://user:secret@pd/v", "no user or password"),
        ("tikv://pd/v?gc-intervall=1h", "gc-intervall"),
        ("tikv://pd/v?gc-interval=soon", "soon"),
        ("tikv://pd/v?ca=/ca.pem&cert=/c.pem&key=/k.pem", "TLS is not supported"),
        ("tikv://pd/v?verify-cn=tikv", "TLS is not supported"),
    ],
)
def test_errors_name_the_part_at_fault_and_no_secret(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as e:
        parse_url(text)
    assert "secret" not in str(e.value)


def test_shards_of_the_change_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [shards_from({}), shards_from({"JFS_TKV_CHANGELOG_SHARDS": "256"})] == [64, 256]
    monkeypatch.setenv("JFS_TKV_CHANGELOG_SHARDS", "3")
    assert TiKVStore.from_url("tikv://pd/v").codec.log_shards == 3
    for wrong in ("0", "257", "-1", "x", "1e2"):
        with pytest.raises(ConfigError, match="1 to 256"):
            shards_from({"JFS_TKV_CHANGELOG_SHARDS": wrong})


_KEY_ERROR = (
    'Multiple key errors: [KeyError(KeyError {{ locked: {locked}, retryable: "{again}", abort: "", '
    "conflict: {conflict}, "
    "already_exist: None, deadlock: None, commit_ts_expired: None, txn_not_found: None, commit_ts_too_large: None, "
    "assertion_failed: None }})]"
)


@pytest.mark.parametrize(
    ("text", "race", "surely_not"),
    [
        (_KEY_ERROR.format(locked="None", again="", conflict="Some(WriteConflict { start_ts: 1 })"), True, True),
        (_KEY_ERROR.format(locked="Some(LockInfo { key: [1] })", again="", conflict="None"), True, True),
        (_KEY_ERROR.format(locked="None", again="Error(Txn(TxnLockNotFound))", conflict="None"), True, True),
        (_KEY_ERROR.format(locked="None", again="", conflict="None"), False, False),
        ("Failed to resolve lock", True, True),
        ("[/root/x.rs:72]: TimestampRequest channel is closed", False, True),
        ("Whether the transaction is committed or not is undetermined: conflict: Some(WriteConflict)", False, False),
        ('gRPC api error: status: Unavailable, message: "error trying to connect"', False, False),
        ("no answer in 10 s", False, False),
    ],
)
def test_what_an_error_of_a_commit_means(text: str, race: bool, surely_not: bool) -> None:
    error = Exception(text)
    assert (failures.is_race(error), failures.surely_not_committed(error)) == (race, surely_not)


def test_errors_say_where_and_what_to_do() -> None:
    cause = Exception(
        "[/root/.cargo/git/checkouts/client-rust/b12f95e/src/pd/timestamp.rs:72]: gRPC api error: status:"
        ' Unavailable, message: "tcp connect error", details: [], metadata: MetadataMap { headers: {} }'
    )
    url = parse_url("tikv://pd1,pd2/vol")
    for error in (
        failures.unreachable(url.where, url.endpoints, cause),
        failures.uncertain(url.where, url.endpoints, cause),
    ):
        assert isinstance(error, MetaError) and error.retryable
        assert "pd1:2379, pd2:2379" in str(error) and "tcp connect error" in str(error)
        assert ".cargo" not in str(error) and "MetadataMap" not in str(error)
    assert failures.uncertain(url.where, url.endpoints, cause).uncertain
