"""streams.ownership.claims: which claims live, whose an output is, who may have written it before."""

from __future__ import annotations

from streams._native import Records
from streams.ownership.claims import Claims, claim_key, instance_key, packed, rivals
from streams.v1.owner_pb2 import Claim, Incarnation

OLD, NEW = b"o" * 16, b"n" * 16


class Topic:
    """Records by hand, and the claims that were read of them."""

    def __init__(self) -> None:
        self.claims = Claims()
        self.records = Records()

    def claim(self, app: str, nonce: str = "1", output_id: bytes = b"", *, precedes: bool = False) -> None:
        """One more claim of `p`."""
        claim = Claim(output="p", app=app, output_id=output_id, changelog=f"{app}-s-changelog", precedes=precedes)
        self.write(claim_key("p", app, nonce), packed(claim))

    def write(self, key: bytes, value: bytes | None, at_ms: int = 0) -> None:
        """One more record."""
        self.records.append(key, value, [], at_ms, len(self.records))

    def owner(self, output_id: bytes = b"") -> str | None:
        """Whose `p` is, with everything read that was written."""
        self.claims.take(self.records)
        found = self.claims.owner("p", output_id)
        return found.app if found is not None else None


def test_the_lowest_offset_owns_and_a_withdrawn_claim_does_not() -> None:
    """Whatever comes later; a second claim of the owner takes nothing away from the first."""
    topic = Topic()
    topic.claim("a")
    topic.claim("b")
    topic.claim("a", "2")

    assert "a" == topic.owner()

    topic.write(claim_key("p", "a", "2"), None)

    assert "a" == topic.owner()

    topic.write(claim_key("p", "a", "1"), None)

    assert "b" == topic.owner()

    topic.write(claim_key("p", "b", "1"), None)

    assert topic.owner() is None


def test_what_compaction_leaves_says_the_same() -> None:
    """Each claim has a key of its own: of two workers that claimed at once neither takes the other's place away."""
    topic, compacted = Topic(), Topic()
    for app, nonce in (("a", "1"), ("b", "1"), ("a", "2")):
        topic.claim(app, nonce)
    last = {topic.records.key(index): index for index in range(len(topic.records))}
    for index in sorted(last.values()):
        compacted.write(topic.records.key(index) or b"", topic.records.value(index))

    assert "a" == topic.owner() == compacted.owner()


def test_state_and_an_operators_word_go_first() -> None:
    """A claim that precedes goes before lower ones; among several the lowest owns."""
    topic = Topic()
    topic.claim("new")
    topic.claim("first", precedes=True)
    topic.claim("later", precedes=True)

    assert "first" == topic.owner()


def test_a_claim_of_a_topic_that_was_deleted_is_over() -> None:
    """By its id; where one of the two is not known, it lives."""
    topic = Topic()
    topic.claim("a", output_id=OLD)
    topic.claim("b", output_id=NEW)

    assert ("a", "b", "a") == (topic.owner(OLD), topic.owner(NEW), topic.owner())
    assert ["a"] == [each.app for each in topic.claims.over("p", NEW, "a")]
    assert [] == topic.claims.over("p", OLD, "a")

    topic.claim("c")
    topic.owner()

    assert ["b", "c"] == [each.app for each in topic.claims.of("p", NEW)]


def test_records_that_were_read_before_change_nothing() -> None:
    """A follower that begins below what was read hears names again, and no withdrawn claim comes back to life."""
    topic = Topic()
    topic.claim("a")
    topic.write(claim_key("p", "a", "1"), None)
    topic.write(instance_key("a", "w"), packed(Incarnation(app="a", instance="w")), at_ms=7)
    topic.owner()
    again = topic.claims.take(topic.records.slice(0, 1)) + topic.claims.take(topic.records.slice(2, 3))

    assert [(2, "w")] == [(offset, said.instance) for offset, said in again]
    assert topic.claims.owner("p", b"") is None
    assert {instance_key("a", "w"): 7} == topic.claims.names


def test_who_wrote_before_there_were_claims() -> None:
    """By the names of changelogs: not one that is claimed for another output, and none that another source explains."""
    topic = Topic()
    topics = ["s", "mine-s-changelog", "other-s-changelog", "a-b-s-changelog", "b-s", "s-changelog", "x-t-changelog"]

    assert {"other": "other-s-changelog"} == rivals(topics, "s", "mine-s-changelog", "p", topic.claims)

    elsewhere = Claim(output="q", app="other", changelog="other-s-changelog")
    topic.write(claim_key("q", "other", "1"), packed(elsewhere))
    topic.owner()

    assert {} == rivals(topics, "s", "mine-s-changelog", "p", topic.claims)
