# SPDX-License-Identifier: Apache-2.0
"""The whole POSIX surface of one volume by inode, for doors that speak in inodes. `Posix` in `posix.py` is all of it.

Rules that a kernel's file system has and the metadata engine doesn't (special files, name limits, listings with
positions, modes that a write takes away) live here; everything else is asked of `core/vfs` and `core/meta`.
"""
