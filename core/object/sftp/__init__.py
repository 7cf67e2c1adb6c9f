# SPDX-License-Identifier: Apache-2.0
"""Objects as files on a machine that is reached over SSH (storage `sftp`).

`address` reads the bucket and finds keys, `link` keeps the connection, `store` is the object store. Client: asyncssh.
Source: spec data-path §4.2, §4.3 (layout).
"""

from core.object.sftp.store import SFTPStore

__all__ = ["SFTPStore"]
