# SPDX-License-Identifier: Apache-2.0
"""Clouds with a protocol of their own: Azure, Google, Alibaba, Tencent, Huawei, and WebDAV servers.

One adapter over Apache OpenDAL (`opendal_store`), a module per service that reads the bucket's URL and the credentials,
and nothing that is loaded before a volume asks for it. What speaks S3 is in core/object/s3 instead. May use core/object
and core/errors; knows nothing of volumes. Source: spec data-path §4.1, §4.2.
"""
