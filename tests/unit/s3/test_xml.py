# SPDX-License-Identifier: Apache-2.0
"""XML both ways: what we write is read back by a parser that isn't ours, whatever stands in keys; hostile input is
refused."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import RestXMLParser
from hypothesis import given, settings, strategies as st

from gateways.s3 import xml
from gateways.s3.errors import S3Error, error_xml
from tests.unit.s3.helpers import code_of

NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
OWNER = xml.Owner("f" * 64, 'Ro"ot <&>')
MALFORMED = (400, "MalformedXML")

#: All that XML 1.0 can express: keys beyond that need encoding-type=url.
expressible = st.text(
    st.characters(
        blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff", whitelist_characters="\t\n\r"
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def service() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("s3", "service-2"), "s3")


def as_botocore_reads(service, operation: str, body: bytes):
    response = {"status_code": 200, "headers": {}, "body": body}
    return RestXMLParser().parse(response, service.operation_model(operation).output_shape)


def entry(key: bytes, **kwargs) -> xml.ObjectEntry:
    return xml.ObjectEntry(key, 7, "d41d8cd98f00b204e9800998ecf8427e", 1_700_000_000, 123_456_789, **kwargs)


@settings(max_examples=150)
@given(st.lists(expressible, max_size=4), expressible)
def test_keys_survive_a_listing(keys, prefix):
    body = xml.list_objects_v2("b", [entry(k.encode()) for k in keys], [prefix.encode()], prefix=prefix.encode())
    root = ElementTree.fromstring(body)
    assert [e.text for e in root.iter(NS + "Key")] == keys
    assert root.find(f"{NS}CommonPrefixes/{NS}Prefix").text == prefix
    assert root.find(NS + "Prefix").text == prefix
    assert root.find(NS + "KeyCount").text == str(len(keys) + 1)


@settings(max_examples=150)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=4))
def test_any_bytes_survive_a_url_encoded_listing(keys):
    body = xml.list_objects_v1("b", [entry(k) for k in keys], url=True, delimiter=b"+ ", truncated=True)
    root = ElementTree.fromstring(body)
    assert [unquote_to_bytes(e.text) for e in root.iter(NS + "Key")] == keys
    assert root.find(NS + "Delimiter").text == "%2B%20"
    assert root.find(NS + "EncodingType").text == "url"


def test_control_characters_and_bytes_that_are_not_utf8():
    body = xml.list_objects_v1("b", [entry(b"a\x01b\x7f\xff\r\n\t")])
    assert b"<Key>a&#x1;b&#x7F;?&#xD;&#xA;&#x9;</Key>" in body


@pytest.mark.parametrize("evil", ["</Key><Key>x", "<!--", "]]>", "&amp;", "<![CDATA[", '"><script>'])
def test_nothing_in_a_name_becomes_markup(evil):
    raw = evil.encode()
    owner = xml.Owner(evil, evil)
    bodies = [
        xml.list_buckets(owner, [xml.BucketEntry(evil, 0, 0, evil)], prefix=evil, continuation_token=evil),
        xml.list_objects_v1(evil, [entry(raw, owner=owner, storage_class=evil, checksum_algorithms=(evil,))], [raw],
                            prefix=raw, delimiter=raw, marker=raw, next_marker=raw),
        xml.list_objects_v2(evil, [entry(raw)], [raw], start_after=raw, continuation_token=evil,
                            next_continuation_token=evil),
        xml.list_versions(evil, [entry(raw, owner=owner, version_id=evil)], [raw], key_marker=raw,
                          version_id_marker=evil, next_key_marker=raw, next_version_id_marker=evil),
        xml.list_multipart_uploads(evil, [xml.UploadEntry(raw, evil, 0, 0, owner, evil, evil, evil)], [raw]),
        xml.list_parts(evil, raw, evil, [xml.PartEntry(1, 1, evil, 0, 0, (("crc32", evil),))], owner=owner),
        xml.delete_result([xml.DeletedObject(raw, evil), xml.DeletedObject(raw, evil, "AccessDenied", evil)]),
        xml.complete_result(evil, evil, raw, evil, [("crc32", evil)], evil),
        xml.initiate_result(evil, raw, evil),
        xml.copy_object_result(evil, 0, 0, [("crc32", evil)], evil),
        xml.copy_part_result(evil, 0),
        xml.object_attributes(etag=evil, checksums=[("crc32", evil)], storage_class=evil),
        xml.post_result(evil, evil, raw, evil),
        xml.location(evil),
        xml.tagging([(evil, evil)]),
        xml.ownership_controls(evil),
        xml.access_control_policy(owner, [xml.Grant("Group", evil, evil), xml.Grant("CanonicalUser", evil, evil)]),
        xml.assume_role_result(arn=evil, role_id=evil, access_key=evil, secret_key=evil, session_token=evil,
                               expires_s=0, request_id=evil),
        error_xml(S3Error("NoSuchKey", evil, extra=[("Extra", evil)]), resource=evil, request_id="1", host_id=evil,
                  bucket=evil, key=evil),
    ]  # fmt: skip
    for body in bodies:
        texts = [e.text or "" for e in ElementTree.fromstring(body).iter()]
        assert any(evil in text for text in texts)
        # Algorithm names are written in upper case.
        assert all(evil.lower() in text.lower() or "<" not in text for text in texts)


def test_botocore_reads_listings(service):
    objects = [entry(b"a"), entry(b"b", owner=OWNER, checksum_algorithms=("CRC32",), checksum_type="FULL_OBJECT")]
    body = xml.list_objects_v2(
        "b", objects, [b"c/"], prefix=b"", delimiter=b"/", continuation_token="", next_continuation_token="n",
        start_after=b"A", max_keys=3, truncated=True,
    )  # fmt: skip
    got = as_botocore_reads(service, "ListObjectsV2", body)
    assert got["Contents"][1]["Owner"] == {"ID": OWNER.id, "DisplayName": OWNER.display_name}
    assert got["Contents"][1]["ChecksumAlgorithm"] == ["CRC32"]
    assert got["Contents"][0]["ETag"] == '"d41d8cd98f00b204e9800998ecf8427e"'
    assert got["Contents"][0]["LastModified"].isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert got["CommonPrefixes"] == [{"Prefix": "c/"}]
    assert (got["KeyCount"], got["MaxKeys"], got["IsTruncated"]) == (3, 3, True)
    assert (got["ContinuationToken"], got["NextContinuationToken"], got["StartAfter"]) == ("", "n", "A")

    got = as_botocore_reads(service, "ListObjects", xml.list_objects_v1("b", objects, truncated=True, next_marker=b"b"))
    assert (got["Marker"], got["NextMarker"], len(got["Contents"])) == ("", "b", 2)

    versions = [entry(b"a", owner=OWNER), entry(b"a", version_id="1", is_latest=False, delete_marker=True)]
    got = as_botocore_reads(service, "ListObjectVersions", xml.list_versions("b", versions))
    assert (got["Versions"][0]["VersionId"], got["Versions"][0]["IsLatest"]) == ("null", True)
    assert got["DeleteMarkers"][0]["VersionId"] == "1"

    uploads = [xml.UploadEntry(b"k", "id", 1, 0, OWNER, checksum_algorithm="crc32", checksum_type="COMPOSITE")]
    got = as_botocore_reads(service, "ListMultipartUploads", xml.list_multipart_uploads("b", uploads, [b"p/"]))
    assert (got["Uploads"][0]["UploadId"], got["Uploads"][0]["ChecksumAlgorithm"]) == ("id", "CRC32")

    parts = [xml.PartEntry(2, 5, "e", 1, 0, (("crc64nvme", "AAA="),))]
    got = as_botocore_reads(service, "ListParts", xml.list_parts("b", b"k", "id", parts, owner=OWNER, next_marker=2))
    assert got["Parts"][0]["ChecksumCRC64NVME"] == "AAA="
    assert got["NextPartNumberMarker"] == 2

    got = as_botocore_reads(service, "ListBuckets", xml.list_buckets(OWNER, [xml.BucketEntry("b", 1)]))
    assert got["Buckets"][0]["Name"] == "b"


def test_botocore_reads_the_rest(service):
    def read(operation, body):
        return as_botocore_reads(service, operation, body)

    assert ElementTree.fromstring(xml.location("eu-west-1")).text == "eu-west-1"
    assert ElementTree.fromstring(xml.location("us-east-1")).text is None
    assert read("GetBucketVersioning", xml.versioning()).get("Status") is None
    assert read("GetBucketVersioning", xml.versioning("Enabled"))["Status"] == "Enabled"
    assert read("GetObjectTagging", xml.tagging([("a", "b")]))["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert read("GetObjectTagging", xml.tagging([]))["TagSet"] == []
    assert read("GetBucketRequestPayment", xml.request_payment())["Payer"] == "BucketOwner"
    assert read("GetBucketPolicyStatus", xml.policy_status(True))["PolicyStatus"]["IsPublic"] is True
    acl = read("GetBucketAcl", xml.access_control_policy(OWNER))
    assert acl["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert acl["Grants"][0]["Grantee"]["Type"] == "CanonicalUser"
    block = xml.public_access_block(
        block_public_acls=True, ignore_public_acls=False, block_public_policy=True, restrict_public_buckets=False
    )
    assert read("GetPublicAccessBlock", block)["PublicAccessBlockConfiguration"]["BlockPublicPolicy"] is True
    owned = read("GetBucketOwnershipControls", xml.ownership_controls())
    assert owned["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    body = xml.object_attributes(
        etag="e", checksums=[("crc32", "x")], checksum_type="FULL_OBJECT", size=0, storage_class="STANDARD",
        parts=xml.ObjectParts(2, parts=((1, 5, (("crc32", "y"),)),)),
    )  # fmt: skip
    got = read("GetObjectAttributes", body)
    assert (got["ETag"], got["ObjectSize"], got["Checksum"]["ChecksumCRC32"]) == ("e", 0, "x")
    assert (got["ObjectParts"]["TotalPartsCount"], got["ObjectParts"]["Parts"][0]["ChecksumCRC32"]) == (2, "y")
    got = read("DeleteObjects", xml.delete_result([xml.DeletedObject(b"a"), xml.DeletedObject(b"b", "", "X", "y")]))
    assert (got["Deleted"][0]["Key"], got["Errors"][0]["Code"]) == ("a", "X")
    quiet = read("DeleteObjects", xml.delete_result([xml.DeletedObject(b"a")], quiet=True))
    assert "Deleted" not in quiet
    assert read("CopyObject", xml.copy_object_result("e", 1))["CopyObjectResult"]["ETag"] == '"e"'
    got = read("CompleteMultipartUpload", xml.complete_result("l", "b", b"k", "e-2", [("crc32", "x")], "COMPOSITE"))
    assert (got["ETag"], got["ChecksumCRC32"], got["ChecksumType"]) == ('"e-2"', "x", "COMPOSITE")


def test_a_late_result_has_no_second_declaration():
    body = xml.complete_result("l", "b", b"k", "e", declaration=False)
    assert body.startswith(b"<CompleteMultipartUploadResult")
    assert ElementTree.fromstring(b'<?xml version="1.0" encoding="UTF-8"?>\n   ' + body) is not None


def delete_body(*keys: str, quiet: str = "") -> bytes:
    inner = "".join(f"<Object><Key>{k}</Key></Object>" for k in keys)
    return f"<Delete>{inner}{f'<Quiet>{quiet}</Quiet>' if quiet else ''}</Delete>".encode()


def test_delete_requests_with_and_without_namespace():
    full = (
        b'<?xml version="1.0"?><d:Delete xmlns:d="http://s3.amazonaws.com/doc/2006-03-01/"><d:Quiet>true</d:Quiet>'
        b"<d:Object><d:Key> a&amp;b\xc3\xa9 </d:Key><d:VersionId>null</d:VersionId><d:ETag>&quot;e&quot;</d:ETag>"
        b"<d:Size>5</d:Size><d:New>ignored</d:New></d:Object></d:Delete>"
    )
    parsed = xml.parse_delete(full)
    assert parsed.quiet
    assert parsed.objects == [xml.ObjectToDelete(" a&bé ".encode(), "null", "e", "", 5)]
    assert xml.parse_delete(delete_body("a", "a")).objects == [xml.ObjectToDelete(b"a")] * 2
    assert len(xml.parse_delete(delete_body(*["k"] * 1000)).objects) == 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<Delete>",
        b"<Delete></Delete>",
        b"<Wrong><Object><Key>a</Key></Object></Wrong>",
        b"<Delete><Object></Object></Delete>",
        b"<Delete><Object><Key></Key></Object></Delete>",
        b"<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
        b"<Delete><Object><Key>a</Key><Size>x</Size></Object></Delete>",
        delete_body("a", quiet="maybe"),
        delete_body(*["k"] * 1001),
        delete_body("a" * (2 << 20)),
        b"<Delete><Object><Key>\xff</Key></Object></Delete>",
        b"<Delete><Object><Key>&#0;</Key></Object></Delete>",
        b"<Delete><Object><Key>&#xD800;</Key></Object></Delete>",
        b'<?xml version="1.0" encoding="no-such-code"?><Delete><Object><Key>a</Key></Object></Delete>',
        b"<!DOCTYPE Delete><Delete><Object><Key>a</Key></Object></Delete>",
        b'<!DOCTYPE d [<!ENTITY x "y">]><Delete><Object><Key>&x;</Key></Object></Delete>',
        b'<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>',
        b"<Delete>" + b"<a>" * 17 + b"</a>" * 17 + b"</Delete>",
        b"<Delete>" + b"<a>" * 100000,
    ],
)
def test_bad_delete_requests(body):
    assert code_of(xml.parse_delete, body) == MALFORMED


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_malformed(body):
    for parser in (xml.parse_delete, xml.parse_complete, xml.parse_tagging, xml.parse_versioning):
        assert code_of(parser, body) == MALFORMED


def complete_body(*parts: tuple[object, str]) -> bytes:
    inner = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in parts)
    return f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()


def test_complete_requests():
    etags = ["e", '"e"', "&quot;e&quot;", "&#34;e&#34;", "&amp;quot;e&amp;quot;", " e\n"]
    parsed = xml.parse_complete(complete_body(*enumerate(etags, 1)))
    assert [p.etag for p in parsed] == ["e"] * len(etags)
    assert [p.number for p in parsed] == list(range(1, len(etags) + 1))
    body = complete_body((3, "e")).replace(b"</Part>", b"<ChecksumCRC32C>AA==</ChecksumCRC32C></Part>")
    assert xml.parse_complete(body) == [xml.CompletedPart(3, "e", {"crc32c": "AA=="})]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], MALFORMED),
        ([("", "e")], MALFORMED),
        ([("1", "")], MALFORMED),
        ([("one", "e")], MALFORMED),
        ([("-1", "e")], MALFORMED),
        ([("0", "e")], (400, "InvalidArgument")),
        ([("2", "e"), ("1", "e")], (400, "InvalidPartOrder")),
        ([("1", "e"), ("1", "e")], (400, "InvalidPartOrder")),
        ([(i, "e") for i in range(1, 10002)], MALFORMED),
    ],
)
def test_bad_complete_requests(parts, expected):
    assert code_of(xml.parse_complete, complete_body(*parts)) == expected


def test_small_documents():
    assert xml.parse_create_bucket(b"") == xml.CreateBucket()
    body = b"<CreateBucketConfiguration><LocationConstraint> eu </LocationConstraint></CreateBucketConfiguration>"
    assert xml.parse_create_bucket(body).location == "eu"
    tagged = body.replace(b"</Create", b"<Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags></Create")
    assert xml.parse_create_bucket(tagged).tags == (("a", "b"),)
    assert code_of(xml.parse_create_bucket, b"x") == MALFORMED
    assert xml.parse_tagging(xml.tagging([("a", " b "), ("c", "")])) == [("a", " b "), ("c", "")]
    assert code_of(xml.parse_tagging, b"<Tagging/>") == MALFORMED
    assert code_of(xml.parse_tagging, b"<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>") == MALFORMED
    assert xml.parse_versioning(xml.versioning("Suspended")).status == "Suspended"
    for bad in (b"", b"<Status>On</Status>", b"<Status>Enabled</Status><Status>Enabled</Status>"):
        assert (
            code_of(xml.parse_versioning, b"<VersioningConfiguration>%s</VersioningConfiguration>" % bad) == MALFORMED
        )
    assert xml.parse_ownership_controls(xml.ownership_controls("ObjectWriter")) == "ObjectWriter"
    assert code_of(xml.parse_ownership_controls, xml.ownership_controls("Nobody")) == MALFORMED
    settings_ = dict.fromkeys(
        ("block_public_acls", "ignore_public_acls", "block_public_policy", "restrict_public_buckets"), True
    )
    assert xml.parse_public_access_block(xml.public_access_block(**settings_)) == settings_


def test_access_control_policies_round_trip():
    grants = [
        xml.Grant("CanonicalUser", OWNER.id, "FULL_CONTROL", OWNER.display_name),
        xml.Grant("Group", "http://acs.amazonaws.com/groups/global/AllUsers", "READ"),
    ]
    assert xml.parse_access_control_policy(xml.access_control_policy(OWNER, grants)) == (OWNER.id, grants)
    bad = xml.access_control_policy(OWNER, [xml.Grant("Group", "x", "EVERYTHING")])
    assert code_of(xml.parse_access_control_policy, bad) == (400, "MalformedACLError")
    assert code_of(xml.parse_access_control_policy, b"<x/>") == (400, "MalformedACLError")
