# SPDX-License-Identifier: Apache-2.0
"""The namespace and data semantics every record store must give: one suite, a few lines per store.

A test file derives from `VolumeSuite` and provides the `store` fixture (an empty, prepared record store).
Source: spec metadata-semantics. The invariant check after every test recounts usage, statistics, link counts,
parents and slice references from the records.
"""

from __future__ import annotations

from tests.conformance.volume.attributes import Attributes
from tests.conformance.volume.changelog import ChangeLog
from tests.conformance.volume.clone import Clone
from tests.conformance.volume.compaction import Compaction
from tests.conformance.volume.concurrency import Concurrency
from tests.conformance.volume.copying import Copying
from tests.conformance.volume.data import Data
from tests.conformance.volume.invariants import check_invariants
from tests.conformance.volume.jobs import Jobs
from tests.conformance.volume.lengths import Lengths
from tests.conformance.volume.locks import Locks
from tests.conformance.volume.namespace import Namespace
from tests.conformance.volume.publish import Publishing
from tests.conformance.volume.quotas import Quotas
from tests.conformance.volume.ranges import Ranges
from tests.conformance.volume.trash import Trash
from tests.conformance.volume.trees import Trees


class VolumeSuite(
    Namespace,
    Attributes,
    Data,
    Publishing,
    Ranges,
    Compaction,
    Clone,
    Locks,
    Quotas,
    Trash,
    Trees,
    Jobs,
    Copying,
    Concurrency,
    ChangeLog,
    Lengths,
):
    """Everything. A store is proven by a class of a few lines that provides the `store` fixture."""


__all__ = ["VolumeSuite", "check_invariants"]
