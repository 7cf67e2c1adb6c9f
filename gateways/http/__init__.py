# SPDX-License-Identifier: Apache-2.0
"""HTTP for every door that speaks it: one server, one supervision of processes, one TLS, one set of limits.

No gateway: it lies below the gateways that use it (`gateways/s3`, `gateways/webdav`) and imports none of them, only
`core`. `messages.py` is what an application sees, `server.py` serves one on a socket, `workers.py` starts processes.
A connection is `connection.py` with its sans-IO parts `head.py` and `chunked.py`; `write.py` is how answers leave.
"""
