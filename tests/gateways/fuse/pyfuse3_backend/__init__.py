# SPDX-License-Identifier: Apache-2.0
"""The pyfuse3 backend, by the suites of the mount, as far as pyfuse3 can do what they ask."""
