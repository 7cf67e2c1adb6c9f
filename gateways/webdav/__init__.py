# SPDX-License-Identifier: Apache-2.0
"""The WebDAV door: RFC 4918 classes 1, 2 and 3 over one volume.

`gateways/http` takes requests in, `app.py` decides who may and who answers. What is hot or must stream is
answered on the loop (`read.py`, `write.py`, `propfind.py`); the rest goes to WsgiDAV (`layer/`) with a provider, a
lock manager and a property manager of ours. Locks (`locks/`) and dead properties (`properties/`) live on the volume.
This package imports `core` and `gateways/http`, never another gateway. Source: spec webdav.
"""
