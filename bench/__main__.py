# SPDX-License-Identifier: Apache-2.0
"""`python -m bench` (`make bench`): the comparison of S3 gateways. README.md lists the others."""

import sys

from bench.s3 import main

sys.exit(main())
