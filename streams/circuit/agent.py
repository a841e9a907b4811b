"""INTERIM, by the lead, so that app.py and worker.py can be wired and tested: engineer A replaces this whole file.

Keep these five methods; streams/worker.py calls them: mount() when the app gets its first target (before the worker
starts: register the agent on `{app}.outcomes`, the table, GET /circuits); plans(existing, partitions) -> list of
(topic, partitions, config) that do not exist yet, in a thread; start() after the topics exist and before the first
assignment is handed over (follow `{app}.circuits`, report, tick); stop() when the worker stops, the broker still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.circuit.board import Board


class Circuits:
    """Circuits of one worker."""

    def __init__(self, app: Any, board: Board) -> None:
        self.board = board

    def mount(self) -> None:
        """Registers agent, table and page."""

    def plans(self, existing: Mapping[str, int], partitions: int) -> list[tuple[str, int, dict[str, str]]]:
        """Topics to make."""
        return []

    async def start(self) -> None:
        """Begins."""

    async def stop(self) -> None:
        """Ends."""
