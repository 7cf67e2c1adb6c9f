# SPDX-License-Identifier: Apache-2.0
"""Entry of the holder: `python -S PATH/holder/__main__.py FD MOUNTPOINT`. FD holds its specification (spec.py).

Run as a file and without site-packages, so that nothing is imported that it doesn't need.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    # The package's root instead of this folder, whose module names would hide others.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from gateways.fuse.holder import spec as specs
    from gateways.fuse.holder.supervisor import Supervisor

    spec = specs.load(int(sys.argv[1]))
    for fd in (spec.fuse_fd, spec.table_fd, spec.ready_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    return Supervisor(spec).run()


if __name__ == "__main__":
    sys.exit(main())
