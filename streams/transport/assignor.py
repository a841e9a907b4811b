"""Faust's partition assignor for static members, which may come back under another address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.assignor.client_assignment import ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from typing_extensions import override

__all__ = ["Assignor"]


class Assignor(PartitionAssignor):
    """Takes over what the group remembers of this member's former process.

    A static member that returns within its session gets its old assignment back without a rebalance, with the address
    it had then. Faust asserts that it is the present one, and the worker hangs. The others learn of the new address at
    the next rebalance.
    """

    @override
    def on_assignment(self, assignment: Any) -> None:  # type: ignore[override]  # a class method in aiokafka alone
        former: Any = ClientMetadata.loads(self._decompress(assignment.user_data))
        present = str(self._url)
        if former.url != present:
            moved = ClientMetadata(
                assignment=former.assignment,
                url=present,
                changelog_distribution=_renamed(former.changelog_distribution, former.url, present),
                external_topic_distribution=_renamed(former.external_topic_distribution, former.url, present),
                topic_groups=former.topic_groups,
            )
            assignment = type(assignment)(assignment.version, assignment.assignment, self._compress(moved.dumps()))
        super().on_assignment(assignment)


def _renamed(distribution: Mapping[str, Any], former: str, present: str) -> dict[str, Any]:
    return {present if url == former else url: topics for url, topics in distribution.items()}
