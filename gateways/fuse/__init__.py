# SPDX-License-Identifier: Apache-2.0
"""The POSIX mount: will live here.

Our own codec of the kernel's FUSE protocol and a loop on /dev/fuse; an optional second backend on pyfuse3.
Nothing of it works yet.
"""
