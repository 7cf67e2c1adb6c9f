# SPDX-License-Identifier: Apache-2.0
"""Buckets: life, settings, modes, addressing, health (spec s3 §2, §3.1, §4.6, §9)."""

from __future__ import annotations

import urllib.request

import pytest

from core.meta.records import DIRECTORY
from gateways.s3 import bucket_metadata
from tests.gateways.s3.test_app_objects import code_of

# Written by a JuiceFS 1.4.1 gateway.
GOLDEN = (
    b"\x01\x00\x01\x00\x8e\xa4Name\xa5alpha\xa7Created\xc7\x0c\x05\x00\x00\x00\x00k\x01\x91\xf3\x1c\xbcr+\xabLockEnabled"
    b"\xc2\xb0PolicyConfigJSON\xc4\x00\xb5NotificationConfigXML\xc4\x00\xb2LifecycleConfigXML\xc4\x00"
    b"\xb3ObjectLockConfigXML\xc4\x00\xb3VersioningConfigXML\xc4\x00\xb3EncryptionConfigXML\xc4\x00\xb0TaggingConfigXML"
    b"\xc4\x00\xafQuotaConfigJSON\xc4\x00\xb4ReplicationConfigXML\xc4\x00\xb7BucketTargetsConfigJSON\xc4\x00"
    b"\xbbBucketTargetsConfigMetaJSON\xc4\x00"
)


def test_metadata_file_equals_what_juicefs_writes():
    members = bucket_metadata.decode(GOLDEN)
    assert members is not None and bucket_metadata.encode(members) == GOLDEN
    created = bucket_metadata.created_ns(members)
    assert created == 1795265011_482112043
    assert bucket_metadata.encode(bucket_metadata.new_members("alpha", created)) == GOLDEN


def test_life_of_a_bucket(s3, fs):
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bkt"]
    assert bucket_metadata.decode(fs._walk(b"/.minio.sys/buckets/bkt/.metadata.bin").data)["Name"] == "bkt"
    s3.create_bucket(Bucket="bkt")
    s3.create_bucket(Bucket="a-first")
    fs.add(b"/Not_A_Bucket", DIRECTORY)
    fs.add(b"/by-mkdir", DIRECTORY)
    fs.add(b"/file")
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["a-first", "bkt", "by-mkdir"]
    page = s3.list_buckets(MaxBuckets=2)
    assert [b["Name"] for b in page["Buckets"]] == ["a-first", "bkt"]
    page = s3.list_buckets(MaxBuckets=2, ContinuationToken=page["ContinuationToken"])
    assert [b["Name"] for b in page["Buckets"]] == ["by-mkdir"] and "ContinuationToken" not in page
    assert [b["Name"] for b in s3.list_buckets(Prefix="b")["Buckets"]] == ["bkt", "by-mkdir"]
    s3.put_object(Bucket="bkt", Key="a/b", Body=b"")
    assert code_of(s3.delete_bucket, Bucket="bkt") == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket="bkt", Key="a/b")
    fs.add(b"/bkt/empty/tree/below", DIRECTORY)
    s3.create_multipart_upload(Bucket="bkt", Key="pending")
    s3.delete_bucket(Bucket="bkt")
    assert code_of(s3.head_bucket, Bucket="bkt")[1] == 404
    assert code_of(s3.delete_bucket, Bucket="bkt") == ("NoSuchBucket", 404)
    with pytest.raises(OSError):
        fs._walk(b"/.sys/bkt")
    with pytest.raises(OSError):
        fs._walk(b"/.minio.sys/buckets/bkt")


@pytest.mark.parametrize("name", ["ab", "a..b", "-ab", "1.2.3.4", "xn--x", "UPPER", "under_score", "x" * 64, "minio"])
def test_bad_names(gateway, name):
    client = gateway.client()
    client.meta.events.unregister("before-parameter-build.s3", None)
    import botocore.handlers

    client.meta.events.unregister("before-parameter-build.s3", botocore.handlers.validate_bucket_name)
    assert code_of(client.create_bucket, Bucket=name) == ("InvalidBucketName", 400)


def test_settings_of_s3cmd_info_and_terraform(s3):
    assert s3.get_bucket_location(Bucket="bkt").get("LocationConstraint") is None
    assert s3.get_bucket_request_payment(Bucket="bkt")["Payer"] == "BucketOwner"
    assert "Status" not in s3.get_bucket_versioning(Bucket="bkt")
    for call, code in (
        (s3.get_bucket_ownership_controls, "OwnershipControlsNotFoundError"),
        (s3.get_public_access_block, "NoSuchPublicAccessBlockConfiguration"),
        (s3.get_bucket_lifecycle_configuration, "NoSuchLifecycleConfiguration"),
        (s3.get_bucket_policy, "NoSuchBucketPolicy"),
        (s3.get_bucket_policy_status, "NoSuchBucketPolicy"),
        (s3.get_bucket_cors, "NoSuchCORSConfiguration"),
        (s3.get_bucket_tagging, "NoSuchTagSet"),
        (s3.get_bucket_encryption, "ServerSideEncryptionConfigurationNotFoundError"),
        (s3.get_bucket_website, "NoSuchWebsiteConfiguration"),
        (s3.get_bucket_replication, "ReplicationConfigurationNotFoundError"),
        (s3.get_object_lock_configuration, "ObjectLockConfigurationNotFoundError"),
    ):
        assert code_of(call, Bucket="bkt") == (code, 404)
        assert code_of(call, Bucket="no-such") == ("NoSuchBucket", 404)
    assert s3.get_bucket_acl(Bucket="bkt")["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket="bkt")
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket="bkt")
    s3.put_bucket_acl(Bucket="bkt", ACL="private")
    assert code_of(s3.put_bucket_acl, Bucket="bkt", ACL="public-read")[0] == "AccessControlListNotSupported"
    s3.put_bucket_versioning(Bucket="bkt", VersioningConfiguration={"Status": "Suspended"})
    enabled = {"Status": "Enabled"}
    assert code_of(s3.put_bucket_versioning, Bucket="bkt", VersioningConfiguration=enabled) == ("NotImplemented", 501)
    for call in (s3.delete_bucket_policy, s3.delete_bucket_cors, s3.delete_bucket_tagging, s3.delete_bucket_lifecycle):
        call(Bucket="bkt")
    assert code_of(s3.list_bucket_inventory_configurations, Bucket="bkt") == ("NotImplemented", 501)


def test_bucket_tags_are_kept_in_the_metadata_file(s3):
    tags = [{"Key": "a", "Value": "b"}]
    s3.put_bucket_tagging(Bucket="bkt", Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket="bkt")["TagSet"] == tags
    s3.delete_bucket_tagging(Bucket="bkt")
    assert code_of(s3.get_bucket_tagging, Bucket="bkt") == ("NoSuchTagSet", 404)


def test_single_mode_serves_the_volume_as_one_bucket(make_gateway, fs):
    client = make_gateway(multi_buckets=False, volume_name="vol").client()
    assert [b["Name"] for b in client.list_buckets()["Buckets"]] == ["vol"]
    client.create_bucket(Bucket="vol")
    assert code_of(client.create_bucket, Bucket="other") == ("NoSuchBucket", 404)
    client.put_object(Bucket="vol", Key="a/b", Body=b"x")
    assert fs._walk(b"/a/b").data == b"x"
    for key in (".sys/tmp/x", ".minio.sys/config/iam/users/x", ".trash/y", ".stats"):
        assert code_of(client.get_object, Bucket="vol", Key=key) == ("AllAccessDisabled", 403)
        assert code_of(client.put_object, Bucket="vol", Key=key, Body=b"") == ("AllAccessDisabled", 403)
        copy = {"Bucket": "vol", "Key": key}
        assert code_of(client.copy_object, Bucket="vol", Key="c", CopySource=copy) == ("AllAccessDisabled", 403)
    upload = client.create_multipart_upload(Bucket="vol", Key="m")["UploadId"]
    assert fs._walk(b"/.sys/uploads/%s/%s" % (upload[:3].encode(), upload.encode())).xattrs[b"s3-object"] == b"m"
    assert [c["Key"] for c in client.list_objects_v2(Bucket="vol")["Contents"]] == ["a/b"]
    assert code_of(client.delete_bucket, Bucket="vol") == ("BucketNotEmpty", 409)


def test_virtual_hosts(make_gateway, fs):
    gateway = make_gateway(domains=("localhost",))
    client = gateway.client()
    client.create_bucket(Bucket="bkt")
    import boto3
    from botocore.config import Config

    from tests.gateways.s3.conftest import ACCESS_KEY, SECRET_KEY

    virtual = boto3.client(
        "s3", endpoint_url=f"http://localhost:{gateway.port}", aws_access_key_id=ACCESS_KEY, region_name="eu-central-1",
        aws_secret_access_key=SECRET_KEY, config=Config(s3={"addressing_style": "virtual"}),
    )  # fmt: skip
    url = virtual.generate_presigned_url("put_object", {"Bucket": "bkt", "Key": "a/k"})
    assert url.startswith(f"http://bkt.localhost:{gateway.port}/a/k?")
    request = urllib.request.Request(
        url.replace("bkt.localhost", "127.0.0.1"), data=b"v", method="PUT",
        headers={"Host": f"bkt.localhost:{gateway.port}"},
    )  # fmt: skip
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert client.get_object(Bucket="bkt", Key="a/k")["Body"].read() == b"v"


def test_health_and_metrics(make_gateway):
    reachable = True

    async def probe() -> bool:
        return reachable

    async def metrics() -> bytes:
        return b"up 1\n"

    gateway = make_gateway(probe=probe, metrics=metrics)
    for path in ("/health", "/minio/health/live", "/minio/health/ready", "/minio/health/cluster"):
        with urllib.request.urlopen(gateway.url + path) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(gateway.url + "/metrics") as answer:
        assert answer.read() == b"up 1\n"
    reachable = False
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(gateway.url + "/minio/health/ready")
    assert caught.value.code == 503
    with urllib.request.urlopen(gateway.url + "/minio/health/live") as answer:
        assert answer.status == 200


def test_preflight_is_refused_while_no_bucket_has_cors(gateway, s3):
    for headers, status in (({}, 400), ({"Origin": "http://x"}, 403)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"{gateway.url}/bkt/k", method="OPTIONS", headers=headers))
        assert caught.value.code == status


def test_anonymous_preset_and_read_only(make_gateway, fs):
    writer = make_gateway().client()
    writer.create_bucket(Bucket="bkt")
    writer.put_object(Bucket="bkt", Key="k", Body=b"open")
    public = make_gateway(anonymous="download", read_only=True)
    with urllib.request.urlopen(f"{public.url}/bkt/k") as answer:
        assert answer.read() == b"open"
    with urllib.request.urlopen(public.url + "/") as answer:
        assert b"<Buckets></Buckets>" in answer.read()
    for method in ("PUT", "DELETE"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"{public.url}/bkt/k", data=b"", method=method))
        assert caught.value.code == 403
    assert code_of(public.client().put_object, Bucket="bkt", Key="k", Body=b"x") == ("AccessDenied", 403)


def test_access_hook_sees_operations_without_secrets(make_gateway):
    seen = []
    client = make_gateway(observe=seen.append).client()
    client.create_bucket(Bucket="bkt")
    code_of(client.get_object, Bucket="bkt", Key="none")
    assert [(a.operation, a.status, a.error) for a in seen] == [
        ("CreateBucket", 200, ""),
        ("GetObject", 404, "NoSuchKey"),
    ]
    assert "testsecret" not in repr(seen)
