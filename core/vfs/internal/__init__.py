# SPDX-License-Identifier: Apache-2.0
"""Special files of a mount: access log, statistics, configuration, and the control file with what it can do.

`files.InternalFiles` is what doors use; `protocol` is shared with the commands that ask. Nothing here knows a door.
"""
