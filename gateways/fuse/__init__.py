# SPDX-License-Identifier: Apache-2.0
"""The POSIX mount: the kernel's FUSE protocol over `core/vfs/posix`.

`wire` is the codec (no IO), `channel` and `server` the loop on /dev/fuse, `handlers` the translation, `holder` what
outlives a worker. `pyfuse3_backend` is another way to the kernel under the same handlers. No rule of a file system
belongs in here.
"""
