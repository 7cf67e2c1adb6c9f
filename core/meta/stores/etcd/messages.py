# SPDX-License-Identifier: Apache-2.0
"""The few messages of etcd's v3 API that a record store needs, as protobuf classes made when this module is imported.

Made from a table instead of generated code, because generated modules are tied to the protobuf version that made them.
Field names and numbers: etcd API reference v3 (etcdserverpb, mvccpb); unknown fields are ignored.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES: Final = {
    "bytes": _Field.TYPE_BYTES, "string": _Field.TYPE_STRING, "int64": _Field.TYPE_INT64, "bool": _Field.TYPE_BOOL,
    # Enums travel as numbers; their names are below.
    "enum": _Field.TYPE_INT32,
}  # fmt: skip

#: Message -> field -> (number, type); `*` before a type is repeated, `|` is one of a oneof.
_MESSAGES: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "KeyValue": {
        "key": (1, "bytes"), "create_revision": (2, "int64"), "mod_revision": (3, "int64"), "version": (4, "int64"),
        "value": (5, "bytes"),
    },
    "ResponseHeader": {"revision": (3, "int64")},
    "RangeRequest": {
        "key": (1, "bytes"), "range_end": (2, "bytes"), "limit": (3, "int64"), "revision": (4, "int64"),
        "keys_only": (8, "bool"),
    },
    "RangeResponse": {"header": (1, "ResponseHeader"), "kvs": (2, "*KeyValue"), "more": (3, "bool")},
    "PutRequest": {"key": (1, "bytes"), "value": (2, "bytes")},
    "PutResponse": {"header": (1, "ResponseHeader")},
    "DeleteRangeRequest": {"key": (1, "bytes"), "range_end": (2, "bytes")},
    "DeleteRangeResponse": {"header": (1, "ResponseHeader"), "deleted": (2, "int64")},
    "RequestOp": {
        "request_range": (1, "|RangeRequest"), "request_put": (2, "|PutRequest"),
        "request_delete_range": (3, "|DeleteRangeRequest"), "request_txn": (4, "|TxnRequest"),
    },
    "ResponseOp": {
        "response_range": (1, "|RangeResponse"), "response_put": (2, "|PutResponse"),
        "response_delete_range": (3, "|DeleteRangeResponse"), "response_txn": (4, "|TxnResponse"),
    },
    "Compare": {
        "result": (1, "enum"), "target": (2, "enum"), "key": (3, "bytes"), "create_revision": (5, "|int64"),
        "mod_revision": (6, "|int64"), "value": (7, "|bytes"), "range_end": (64, "bytes"),
    },
    "TxnRequest": {"compare": (1, "*Compare"), "success": (2, "*RequestOp"), "failure": (3, "*RequestOp")},
    "TxnResponse": {"header": (1, "ResponseHeader"), "succeeded": (2, "bool"), "responses": (3, "*ResponseOp")},
    "AuthenticateRequest": {"name": (1, "string"), "password": (2, "string")},
    "AuthenticateResponse": {"header": (1, "ResponseHeader"), "token": (2, "string")},
}  # fmt: skip

_PACKAGE: Final = "sluicefs.etcd"

# Compare.result and Compare.target.
EQUAL: Final = 0
GREATER: Final = 1
LESS: Final = 2
CREATE: Final = 1
MOD: Final = 2
VALUE: Final = 3

TXN: Final = "/etcdserverpb.KV/Txn"
RANGE: Final = "/etcdserverpb.KV/Range"
DELETE_RANGE: Final = "/etcdserverpb.KV/DeleteRange"
AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="sluicefs/etcd.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            mark, kind = (kind[0], kind[1:]) if kind[0] in "*|" else ("", kind)
            field = message.field.add(
                name=field_name, number=number, label=_Field.LABEL_REPEATED if mark == "*" else _Field.LABEL_OPTIONAL
            )
            if mark == "|":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="one")
                field.oneof_index = 0
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES: Final = _build()
RangeRequest: Any = _CLASSES["RangeRequest"]
RangeResponse: Any = _CLASSES["RangeResponse"]
PutRequest: Any = _CLASSES["PutRequest"]
DeleteRangeRequest: Any = _CLASSES["DeleteRangeRequest"]
DeleteRangeResponse: Any = _CLASSES["DeleteRangeResponse"]
RequestOp: Any = _CLASSES["RequestOp"]
Compare: Any = _CLASSES["Compare"]
TxnRequest: Any = _CLASSES["TxnRequest"]
TxnResponse: Any = _CLASSES["TxnResponse"]
AuthenticateRequest: Any = _CLASSES["AuthenticateRequest"]
AuthenticateResponse: Any = _CLASSES["AuthenticateResponse"]
