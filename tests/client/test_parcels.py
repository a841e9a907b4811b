"""Many events at a time."""

from __future__ import annotations

import pytest

from streams.client.broker import Ack
from streams.client.event import Encoder, Event
from streams.client.parcels import PARCEL_BYTES_MAX, PARCEL_RECORDS_MAX, Parcels, Tally
from streams.errors import TransportError


def cut(sizes: list[int]) -> list[int]:
    """Lengths of the parcels that events of these sizes give."""
    parcels = Parcels(Encoder("plain", "", record_bytes_max=10 * PARCEL_BYTES_MAX), "devices")
    given = [parcels.add(Event(b"x" * size, "k")) for size in sizes]
    return [len(parcel[0]) for parcel in (*given, parcels.rest()) if parcel is not None]


def test_parcels_are_bounded_by_count_and_by_bytes() -> None:
    """Whichever comes first; the rest comes at the end, nothing gives nothing."""
    assert [PARCEL_RECORDS_MAX, 1] == cut([1] * (PARCEL_RECORDS_MAX + 1))
    assert [1, 3] == cut([PARCEL_BYTES_MAX, 1, 1, 1])
    assert [] == cut([])


def test_tally_counts_and_keeps_the_first_failure() -> None:
    """What was acknowledged is told with the failure."""
    tally = Tally()
    ack, first = Ack("devices", 0, 0), TransportError("first")
    tally.count([ack, first, ack])
    tally.count([TransportError("second"), ack])
    with pytest.raises(TransportError, match="first") as caught:
        tally.result()

    assert 3 == tally.acknowledged
    assert ["3 events before or beside it were acknowledged"] == caught.value.__notes__
