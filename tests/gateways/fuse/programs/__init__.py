# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, on a mount: what they check of themselves, we check too."""
