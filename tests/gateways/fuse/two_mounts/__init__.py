# SPDX-License-Identifier: Apache-2.0
"""Two mounts of one volume, each with its own process: what one does, the other sees, whole and in time."""
