# SPDX-License-Identifier: Apache-2.0
"""The WebDAV door: will live here.

A WsgiDAV provider, lock storage and property manager over the volume, so that locks and properties survive restarts
and are shared by servers. Nothing of it works yet.
"""
