"""One owner of an output: who claims first has it, who comes later ends in words, on every transport."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streams.app import App
from streams.cli import run, writers
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError
from streams.ownership.claims import Claims, claim_key, packed
from streams.settings import read
from streams.sync.topics import SyncTopics
from streams.v1.owner_pb2 import Claim
from streams.v1.patch_pb2 import Patch
from tests.broker import Broker
from tests.contract.site import POLL_S, Site

OWNERS = "streams.owners"


def _app(site: Site, name: str = "", output: str = "") -> App:
    """An application on the site's source, with another id where a name is given."""
    own = {"app.id": f"{name}-{site.source}", "app.datadir": str(site.folder / name)} if name else {}
    app = site.app({**own, "app.instance": f"w-{name or 'first'}"})
    app.sync(site.source, DeviceState, **({"output": output} if output else {}))
    return app


async def _living(site: Site, owners: str = OWNERS, output_id: bytes = b"") -> list[str]:
    """The apps that claim the site's output, the owner first; `output_id`: that of now."""
    claims = Claims()
    reader = await asyncio.to_thread(site.batches, owners)
    for records in reader:
        claims.take(records)
    return [each.app for each in claims.of(site.patches, output_id)]


async def test_a_second_application_on_one_output_ends_in_words(site: Site) -> None:
    """It names both, and the cures, and its claim is withdrawn. With an output of its own it works."""
    await site.create(partitions=1)
    first = _app(site)
    async with site.running(first) as worker:
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, worker)
        if not site.embedded:
            with pytest.raises(SettingsError) as raised:
                await _serve(_app(site, "second"))
            _check_refusal(raised.value, site, "second", f"fleet-{site.source}")
        await site.send([DeviceState(device_id="d-1", battery=2)])
        await site.records(site.patches, 2, worker)
    with pytest.raises(SettingsError):
        await _serve(_app(site, "third"))
    async with site.running(_app(site, "fourth", f"{site.source}.others")) as worker:
        await site.records(f"{site.source}.others", 1, worker)
    async with site.running(_app(site)) as worker:
        await site.send([DeviceState(device_id="d-1", battery=3)])
        await site.records(site.patches, 3, worker)

    assert {b"d-1": [1, 2, 3]} == await site.revisions()
    assert [f"fleet-{site.source}"] == await _living(site)


async def _serve(app: App) -> None:
    await asyncio.wait_for(app.serve(), 60)


def _check_refusal(error: SettingsError, site: Site, app: str, owner: str) -> None:
    said = str(error)
    assert 2 == error.exit_code
    assert f"output {site.patches}: got the application {app}-{site.source}, while {owner} owns it" in said, said
    assert "`output =`" in said
    assert f"`streams state take-over {site.source}` for {app}" in said


async def test_an_output_of_an_earlier_release_stays_its_applications(site: Site) -> None:
    """Patches and a changelog, but no claim: whoever comes without state is refused; the first one goes on."""
    await site.create(partitions=1)
    first = _app(site)
    async with site.running(first) as worker:
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, worker)
    owners = f"{site.source}.owners"  # nobody has claimed here yet
    later = site.app({"app.id": f"later-{site.source}", "app.owners_topic": owners})
    later.sync(site.source, DeviceState)
    with pytest.raises(SettingsError, match=f"while it holds patches of fleet-{site.source}"):
        await _serve(later)
    again = site.app({"app.owners_topic": owners})
    again.sync(site.source, DeviceState)
    async with site.running(again) as worker:
        await site.send([DeviceState(device_id="d-1", battery=2)])
        await site.records(site.patches, 2, worker)

    assert {b"d-1": [1, 2]} == await site.revisions()


async def test_an_owner_that_is_overtaken_stops(site: Site) -> None:
    """A claim that goes before its own ends the worker; its own claim stays where it is."""
    await site.create(partitions=1)
    claim = Claim(output=site.patches, app="taker", changelog="taker-changelog", precedes=True)

    async def overtaken() -> None:
        async with site.running(_app(site)) as worker:
            await site.send([DeviceState(device_id="d-1", battery=1)])
            await site.records(site.patches, 1, worker)
            await site.write(OWNERS, packed(claim), key=claim_key(site.patches, "taker", "1"), partition=0)
            await asyncio.wait_for(worker, 30)

    with pytest.raises(SettingsError, match="while taker owns it"):
        await overtaken()

    assert ["taker", f"fleet-{site.source}"] == await _living(site)


async def test_a_bad_record_among_the_claims_costs_itself(site: Site) -> None:
    """No key, a key of nothing, a value of nothing, another app's name in the value: nobody is kept from starting."""
    await site.create(partitions=1)
    await site.create(OWNERS, partitions=1)
    patches = site.patches
    if site.embedded:  # Kafka takes no record without a key in a compacted topic
        await site.write(OWNERS, b"x", None, partition=0)
    for key in (b"", b"output/", f"output/{patches}/other/1".encode(), b"\xff\xfe", b"instance/\xff/w"):
        await site.write(OWNERS, b"", b"\x01\xff\xff", None, key=key, partition=0)
    lie = packed(Claim(output="elsewhere", app="other"))
    await site.write(OWNERS, lie, key=claim_key(patches, "other", "1"), partition=0)
    app = _app(site)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(patches, 1, worker)

    assert [f"fleet-{site.source}"] == await _living(site)


async def test_a_claim_of_a_newer_release_is_respected(site: Site) -> None:
    """Its key says enough: whoever cannot read it stands back, and says so."""
    await site.create(partitions=1)
    await site.create(OWNERS, partitions=1)
    await site.write(OWNERS, b"\x02anything", key=claim_key(site.patches, "newer", "1"), partition=0)

    with pytest.raises(SettingsError, match="while newer owns it"):
        await _serve(_app(site))


async def test_an_output_is_taken_over_by_command(site: Site) -> None:
    """`state take-over` says first and does then; keys begin anew above the old epochs, the former owner stays out."""
    await site.create(partitions=1)
    async with site.running(_app(site)) as worker:
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, worker)
    command = ["state", "take-over", site.source, "--id", f"second-{site.source}", "--broker", site.url,
               f"--set=app.datadir={site.folder / 'second'}"]  # fmt: skip
    codes = [await asyncio.to_thread(run, command)]
    with pytest.raises(SettingsError):
        await _serve(_app(site, "second"))
    codes += [await asyncio.to_thread(run, [*command, "--yes"]), await asyncio.to_thread(run, [*command, "--yes"])]
    async with site.running(_app(site, "second")) as worker:
        await site.send([DeviceState(device_id="d-1", battery=2)])
        await site.records(site.patches, 3, worker)
    with pytest.raises(SettingsError, match=f"while second-{site.source} owns it"):
        await _serve(_app(site))

    assert [0, 0, 0] == codes
    chosen = read(flags={"app.id": f"second-{site.source}", "app.broker": site.url})
    topics = SyncTopics.of(chosen.app.id, site.source, "")
    assert {site.patches: []} == await asyncio.to_thread(writers.others, chosen, [topics]), "the former owner is out"
    patches = [Patch.FromString(record.value or b"") for record in await site.read(site.patches)]
    assert [1, 1, 2] == [patch.revision for patch in patches]
    assert patches[0].epoch < patches[1].epoch == patches[2].epoch
    assert {b"d-1": DeviceState(device_id="d-1", battery=2)} == await site.held()
    assert [f"second-{site.source}"] == await _living(site)


async def test_of_two_applications_that_start_at_once_one_owns(site: Site) -> None:
    """Whichever claim stands lower; the other one withdraws. Who was killed after its claim finds it there again."""
    await site.create(partitions=1)
    await site.create(OWNERS, partitions=1)
    left = Claim(output=f"{site.source}.left", app=f"left-{site.source}", changelog="none")
    await site.write(OWNERS, packed(left), key=claim_key(left.output, left.app, "1"), partition=0)
    names = ["one", "two"]
    serving = [asyncio.create_task(_app(site, name).serve()) for name in names]
    done, running = await asyncio.wait(serving, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    await site.send([DeviceState(device_id="d-1", battery=1)])
    for _ in range(200):
        if await site.read(site.patches):
            break
        await asyncio.sleep(0.1)
    for task in running:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    async with site.running(_app(site, "left", left.output)) as worker:
        await site.records(left.output, 1, worker)

    assert (1, 1) == (len(done), len(running))
    refused = names[serving.index(done.pop())]
    owner = names[serving.index(running.pop())]
    assert [f"{owner}-{site.source}"] == await _living(site)
    assert {b"d-1": [1]} == await site.revisions()
    claims = [key for key in [found.key for found in await site.read(OWNERS)] if key and left.app.encode() in key]
    assert [claim_key(left.output, left.app, "1")] == [key for key in claims if key.startswith(b"output/")]
    assert refused != owner


@pytest.mark.parametrize("how", ["emptied", "made anew"])
async def test_an_owner_whose_claim_is_gone_claims_again(site: Site, how: str) -> None:
    """Somebody emptied the topic or deleted it under a running owner; who comes next finds nobody there."""
    await site.create(partitions=1)
    owners = f"{site.source}.owners"
    app = site.app({"app.owners_topic": owners})
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, worker)
        if how == "emptied":
            await site.empty(owners)
        else:
            await site.delete(owners)
            await site.create(owners, partitions=1)
        await site.write(owners, b"x", b"y", b"z", key=b"unknown", partition=0)
        claim = Claim(output=site.patches, app="other", changelog="other-changelog")
        await site.write(owners, packed(claim), key=claim_key(site.patches, "other", "1"), partition=0)
        await site.until(lambda: len(app.declaring.registry.claims.of(site.patches, b"")) == 2, worker)
        await site.send([DeviceState(device_id="d-1", battery=2)])
        await site.records(site.patches, 2, worker)

    assert [f"fleet-{site.source}", "other"] == await _living(site, owners)
    assert {b"d-1": [1, 2]} == await site.revisions()


async def test_an_output_made_anew_under_its_owner_is_claimed_again(site: Site) -> None:
    """Found: the claim was one of the output that was gone, and who came next owned the new one beside its writer."""
    await site.create(partitions=1)
    owners = f"{site.source}.owners"
    app = site.app({"app.owners_topic": owners})
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, worker)
        before = app.transport.log_ids([site.patches])[site.patches]
        await site.delete(site.patches)
        await site.create(site.patches, partitions=1)
        output_id = app.transport.log_ids([site.patches])[site.patches]
        assert before != output_id
        claim = Claim(output=site.patches, output_id=output_id, app="other", changelog="other-changelog")
        await site.write(owners, packed(claim), key=claim_key(site.patches, "other", "1"), partition=0)
        while await _living(site, owners, output_id) != [app.conf.id, "other"]:
            assert not worker.done()
            await asyncio.sleep(POLL_S)


async def test_of_an_owner_without_a_claim_and_another_one_only_one_goes_on(kafka: Broker, tmp_path: Path) -> None:
    """The topic was deleted before the first output; the second application finds nothing of the first one."""
    site = Site(kafka.url, tmp_path)
    await site.create(partitions=1)
    owners = f"{site.source}.owners"
    apps = [site.app({"app.id": f"{name}-{site.source}", "app.owners_topic": owners}) for name in ("first", "second")]
    for app in apps:
        app.sync(site.source, DeviceState)
    async with site.running(apps[0]) as first:
        await site.delete(owners)
        with pytest.raises(SettingsError, match=f"while first-{site.source} owns it"):
            await _serve(apps[1])
        await site.send([DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, first)

    assert {b"d-1": [1]} == await site.revisions()
