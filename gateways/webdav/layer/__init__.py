# SPDX-License-Identifier: Apache-2.0
"""WsgiDAV as the protocol layer of MKCOL, DELETE, COPY, MOVE, LOCK and UNLOCK.

`bridge.py` runs it in threads, `provider.py` gives it the volume, `locking.py` our locks, `properties.py` our dead
properties. Paths travel in the spelling of `names.to_layer`. What the request may do at all was decided before
(`gate.py`). Source: spec webdav §23.
"""
