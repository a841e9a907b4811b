"""Patches on message objects: stock calls, and errors that say what to do."""

from __future__ import annotations

import pytest

from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import PatchError
from streams.kernel.patch import apply_patch, apply_paths, unknown_paths
from streams.v1.patch_pb2 import Patch

TYPE = "streams.demo.v1.DeviceState"


def held() -> DeviceState:
    """A device with a list, a map and a nested message."""
    state = DeviceState(device_id="d", cpu=0.5, tags=["a", "b"], labels={"x": "1"})
    state.geo.lat = 40
    return state


def delta(*paths: str, data: DeviceState | None = None) -> Patch:
    """A DELTA with these paths."""
    patch = Patch(kind=Patch.DELTA, type=TYPE, data=(data or DeviceState()).SerializeToString())
    patch.mask.paths.extend(paths)
    return patch


def test_lists_and_maps_are_replaced() -> None:
    """What a path names is cleared before the partial message is merged."""
    after = apply_patch(held(), delta("tags", "labels", data=DeviceState(tags=["c"], labels={"y": "2"})))
    assert after is not None
    assert (list(after.tags), dict(after.labels), after.cpu) == (["c"], {"y": "2"}, 0.5)


def test_dotted_path() -> None:
    """A dotted path changes one field of the nested message; without data it is cleared and its parent stays."""
    partial = DeviceState()
    partial.geo.lon = 7
    after = apply_patch(held(), delta("geo.lon", data=partial))
    assert after is not None
    assert (after.geo.lat, after.geo.lon) == (40, 7)
    partial = DeviceState()
    partial.geo.SetInParent()
    after = apply_patch(held(), delta("geo.lat", data=partial))
    assert after is not None
    assert after.HasField("geo")
    assert after.geo.lat == 0


def test_absent_parent() -> None:
    """The walk stops where a parent is absent; clearing makes no parents."""
    state = DeviceState(device_id="d")
    apply_paths(state, ["geo.lat"], b"")
    assert not state.HasField("geo")


def test_snapshot_and_delete() -> None:
    """A snapshot replaces everything, a delete leaves nothing."""
    patch = Patch(kind=Patch.SNAPSHOT, type=TYPE, data=DeviceState(device_id="e").SerializeToString())
    patch.mask.paths.append("*")
    assert apply_patch(held(), patch) == DeviceState(device_id="e")
    assert apply_patch(held(), Patch(kind=Patch.DELETE, type=TYPE)) is None


def test_unknown_paths() -> None:
    """Unknown names, and paths through lists, maps and scalars, are named."""
    paths = ["cpu", "geo.lat", "geo.alt", "tags.x", "labels.x", "cpu.x", "new", "*"]
    assert unknown_paths(DeviceState.DESCRIPTOR, paths) == ["geo.alt", "tags.x", "labels.x", "cpu.x", "new", "*"]


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (delta("cpu", "new"), "DeviceState has no field new"),
        (Patch(kind=Patch.DELTA, type=TYPE, data=b"\xff"), "data is no streams.demo.v1.DeviceState"),
        (Patch(kind=Patch.SNAPSHOT, type=TYPE, data=b"\xff"), "data is no streams.demo.v1.DeviceState"),
        (Patch(kind=Patch.SNAPSHOT, type="acme.Other"), "is of acme.Other, expected streams.demo.v1.DeviceState"),
        (Patch(type=TYPE), "patch kind is 0"),
    ],
)
def test_refused_patches_change_nothing(patch: Patch, said: str) -> None:
    """A patch that does not fit is refused whole."""
    state = held()
    with pytest.raises(PatchError, match=said):
        apply_patch(state, patch)
    assert state == held()
