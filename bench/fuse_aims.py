# SPDX-License-Identifier: Apache-2.0
"""What a mount is measured against: figures of JuiceFS 1.4.1, and how many times as fast we want to be.

JuiceFS 1.4.1 built from source, on a machine with 2 cores that client, database and store share, data in memory-backed
folders, one run each: ratios, ±15 %. It can't be had from a registry, so the bench runs 0.14.2 and carries these.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = "JuiceFS 1.4.1 on such a machine"

#: (metadata engine, added round trip in ms) → operation → per second with 1 and with 8 processes.
JUICEFS_1_4: Final[dict[tuple[str, float], dict[str, tuple[float, float]]]] = {
    ("redis", 0): {
        "create": (1454, 3549), "create4k": (660, 1903), "read4k": (1766, 3815), "stat": (8864, 20955),
        "rename": (1630, 3405), "unlink": (1959, 4059), "mkdir": (1744, 4231), "rmdir": (1618, 4026),
        "list": (114707, 707247),
    },
    ("sqlite", 0): {
        "create": (1593, 2789), "create4k": (489, 1060), "read4k": (1692, 6375), "stat": (7949, 25010),
        "rename": (1486, 2130), "unlink": (2028, 2497), "mkdir": (1647, 2484), "rmdir": (1742, 3038),
        "list": (49852, 247014),
    },
    ("postgres", 0): {
        "create": (529, 832), "create4k": (228, 513), "read4k": (1181, 1065), "stat": (2556, 4783),
        "rename": (465, 834), "unlink": (695, 870), "mkdir": (632, 937), "rmdir": (547, 918), "list": (28745, 69719),
    },
    ("redis", 1): {
        "create": (57, 364), "create4k": (35, 240), "read4k": (90, 639), "stat": (388, 2468), "rename": (41, 260),
        "unlink": (50, 320), "mkdir": (55, 362), "rmdir": (44, 278), "list": (18163, 109265),
    },
}  # fmt: skip
#: The same on Redis, one file of 1 GiB, by fio: MiB per second, or operations per second for random access.
JUICEFS_1_4_DATA: Final = {"seqwrite": 355.0, "seqread": 729.0, "randread": 9922.0, "randwrite": 1185.0}

NEAR: Final = {"create": 1.7, "create4k": 2.4, "rename": 2.0, "unlink": 2.0, "stat": 1.0}
FAR: Final = 4.0
DATA: Final = {"seqwrite": 2.0, "seqread": 2.0, "randread": 2.0}
#: Random reads of a file that the kernel reads by itself (passthrough), in terms of JuiceFS' randread.
PASSTHROUGH: Final = 50.0
RSS_MIB: Final = 400  # of the worker, one million inodes looked up


def known(engine: str, rtt_ms: float, operation: str, processes: int) -> float | None:
    """JuiceFS 1.4.1's figure for the same, if it was measured."""
    pair = JUICEFS_1_4.get((engine, rtt_ms), {}).get(operation)
    if pair is not None and processes in (1, 8):
        return pair[processes == 8]
    if (engine, rtt_ms, processes) == ("redis", 0, 1):
        return JUICEFS_1_4_DATA.get(operation)
    return None


def aim(engine: str, rtt_ms: float, operation: str) -> float | None:
    """How many times JuiceFS 1.4.1's figure we want."""
    if operation in JUICEFS_1_4_DATA:
        return DATA.get(operation)
    if operation == "list":
        return None
    if rtt_ms:
        return FAR
    if (engine, operation) == ("postgres", "create4k"):
        return 4.0
    return NEAR.get(operation)


def verdict(ratio: float | None, wanted: float | None) -> str:
    """For the last column of the table."""
    if ratio is None or wanted is None:
        return ""
    return "met" if ratio >= wanted else "missed"
