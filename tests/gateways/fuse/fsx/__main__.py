# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.gateways.fuse.fsx PATH …`: the random tester by hand, on any file system."""

import sys

from tests.gateways.fuse.fsx.tester import main

sys.exit(main(sys.argv[1:]))
