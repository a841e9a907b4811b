"""What a run of the demo found, as a table that is read in five seconds and as one JSON object. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.table import Table
from rich.text import Text

from streams.demo.sizes import BATCH_PATCHES


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one run; sizes in bytes.

    `full_json_bytes` and `full_protobuf_bytes` are the states of every delivery alone, without an envelope;
    `patch_bytes` are whole `streams.v1.Patch` messages. `compressed_patch_bytes` are the patches topic's keys and
    values, zstd level 3, batch by batch of `BATCH_PATCHES`. `seconds` runs from the first event sent to the last event
    worked off and the last patch applied.

    `http_patches` and `http_requests` are what the HTTP receiver took; it was away for `http_away_seconds` and answered
    `http_refused` requests with 503 meanwhile. `http_differences`: aircraft of which it does not hold the replay's
    bytes.
    """

    events: int
    duplicates_injected: int
    duplicates_dropped: int
    patches: int
    aircraft: int
    full_json_bytes: int
    full_protobuf_bytes: int
    patch_bytes: int
    compressed_patch_bytes: int
    seconds: float
    differences: int
    http_patches: int
    http_requests: int
    http_refused: int
    http_away_seconds: float
    http_differences: int
    broker: str

    @property
    def verified(self) -> bool:
        """Whether both receivers hold exactly the replay's bytes for every aircraft."""
        return self.aircraft > 0 and self.differences == 0 and self.http_differences == 0

    @property
    def conflated(self) -> int:
        """Patches that were never sent over HTTP: a later one of the same aircraft had their changes too."""
        return self.patches - self.http_patches

    @property
    def events_per_second(self) -> float:
        """Events through the whole job in one process: sent, compared, committed, received, applied, checked."""
        return self.events / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, object]:
        """The same as one JSON object."""
        return {
            **asdict(self),
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.events_per_second),
            "http_away_seconds": round(self.http_away_seconds, 1),
            "conflated": self.conflated,
            "compression": f"zstd level 3, batches of {BATCH_PATCHES} patches",
            "verified": self.verified,
        }

    def as_table(self) -> Table:
        """The same for a person."""
        table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        share = self.duplicates_injected / self.events if self.events else 0
        table.add_row("events in", f"{self.events:,}", "full states: New York's flights, January 2013")
        table.add_row(
            "duplicates dropped",
            f"{self.duplicates_dropped:,}",
            f"of {self.duplicates_injected:,} injected ({share:.1%}), as retries would be",
        )
        table.add_row("patches out", f"{self.patches:,}", f"of {self.aircraft:,} aircraft")
        table.add_section()
        table.add_row("as full JSON", _megabytes(self.full_json_bytes), self._times(self.full_json_bytes))
        table.add_row("as full Protobuf", _megabytes(self.full_protobuf_bytes), self._times(self.full_protobuf_bytes))
        table.add_row("as patches", _megabytes(self.patch_bytes), self._times(self.patch_bytes))
        table.add_row(
            "compressed patches",
            _megabytes(self.compressed_patch_bytes),
            f"zstd, in batches of {BATCH_PATCHES:,} patches",
        )
        table.add_section()
        table.add_row(
            "delivered by HTTP",
            f"{self.http_patches:,}",
            f"in {self.http_requests:,} requests; the receiver was away for {self.http_away_seconds:.1f} s",
        )
        share = self.conflated / self.patches if self.patches else 0
        table.add_row(
            "conflation saved",
            f"{self.conflated:,}",
            f"patches ({share:.0%}); {self.http_refused:,} requests were refused",
        )
        table.add_section()
        table.add_row(
            "events/s", f"{self.events_per_second:,.0f}", f"sent to applied, {self.seconds:.1f} s, one process"
        )
        table.add_row("verified", *self._verdict())
        return table

    def _times(self, size: int) -> str:
        return (
            f"{size / self.compressed_patch_bytes:.1f} times the compressed patches"
            if self.compressed_patch_bytes
            else ""
        )

    def _verdict(self) -> tuple[Text, str]:
        if self.verified:
            return Text("yes", "bold green"), "both receivers, bit for bit, by a plain replay"
        differing = self.differences + self.http_differences
        return Text("NO", "bold red"), f"{differing:,} aircraft of the two receivers differ from a plain replay"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
