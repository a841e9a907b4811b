"""Answers to questions between agents: an answer that comes twice, or too late, is nobody's trouble."""

from __future__ import annotations

import re
from typing import Any

from faust.agents.models import ReqRepResponse
from faust.agents.replies import ReplyConsumer
from faust.models import maybe_model
from typing_extensions import override

from streams.options.rule import TOPIC

__all__ = ["Replies", "is_reply_topic"]


def is_reply_topic(name: object, own: str, prefix: str) -> bool:
    """Whether an agent may answer to a topic. Whoever writes to the agent's topic names it: in a header, or beside the
    value. Any topic would do: this worker's right to write would be everybody's; aiokafka logs what is no name of one
    each time that it looks at its topics. `own`: this app's; `prefix`: of all.
    """
    if not isinstance(name, str) or re.fullmatch(TOPIC, name) is None:
        return False
    return name == own or (bool(prefix) and name.startswith(prefix))


class Replies(ReplyConsumer):
    """Faust's reader of answers.

    Faust's ended, and the worker with it, when an answer came a second time, as after a rebalance, or when whoever had
    asked was gone, or when the record was no answer at all; and it kept an entry for every question for ever.
    """

    app: Any  # ours

    @override
    async def _drain_replies(self, channel: Any) -> None:
        async for reply in channel.stream():
            if not isinstance(reply, ReqRepResponse) or not isinstance(reply.correlation_id, str):
                self.app.rescue.count(channel.get_topic_name(), "answers.strange")
                continue
            for promise in self._waiting.pop(reply.correlation_id, ()):
                if not promise.done():
                    promise.fulfill(reply.correlation_id, maybe_model(reply.value))
