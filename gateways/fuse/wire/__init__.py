# SPDX-License-Identifier: Apache-2.0
"""The kernel's FUSE protocol as bytes: what a request says, and how an answer is laid out. No IO, no file system.

Source: the kernel's public protocol header (linux/fuse.h), protocol 7.31 to 7.45.
"""
