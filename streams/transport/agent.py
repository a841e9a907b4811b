"""The agent of this transport: its body is run again after it raised, and is offered again what it raised on.

Faust marks the actor as crashed, which logs what was raised with all that it says, and acknowledges the event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable
from contextlib import suppress
from typing import Any, cast

import faust
from faust.agents import current_agent
from typing_extensions import override

from streams.errors import ChunkAskError, StreamsError, UnknownTopicError, UserCodeError
from streams.transport.desk import Desk
from streams.transport.failure import Failure
from streams.transport.joining import joins
from streams.transport.raised import kind_of, line_of
from streams.transport.replies import is_reply_topic

__all__ = ["Agent"]

log = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Before an agent of a local channel is run again: what it raised on is gone with its channel's queue anyway."""


class Agent(faust.Agent):
    """An agent; `vital`: a part of ours, which ends the worker when it raises, whatever app.on_error says."""

    app: Any  # ours

    def __init__(self, fun: Any, *, app: Any, vital: bool = False, **options: Any) -> None:
        self._vital = vital
        self._has_refused = False
        super().__init__(fun, app=app, **options)

    @override
    def info(self) -> Any:
        return {**super().info(), "vital": self._vital}

    @override
    def stream(self, *args: Any, **kwargs: Any) -> Any:
        stream: Any = super().stream(*args, **kwargs)
        stream.belong(self.name)
        return stream

    @override
    async def ask(self, *args: Any, **kwargs: Any) -> Any:
        self._check_asking()
        return await super().ask(*args, **kwargs)

    @override
    def _barrier_send(self, *args: Any, **kwargs: Any) -> Any:
        self._check_asking()
        return super()._barrier_send(*args, **kwargs)

    def _check_asking(self) -> None:
        asking = current_agent()
        if joins():
            raise ChunkAskError(asking.name if asking is not None else "", self.name)

    @override
    async def _reply(self, key: Any, value: Any, reply_to: Any, correlation_id: Any) -> None:
        conf = self.app.conf
        if is_reply_topic(reply_to, conf.reply_to, conf.reply_to_prefix):
            with suppress(UnknownTopicError):  # whoever asked is gone, or never was: no trouble of the question's
                await super()._reply(key, value, reply_to, correlation_id)
                return
        self.app.rescue.count(str(self.channel), "answers.refused")
        if not self._has_refused:
            self._has_refused = True
            log.warning(
                "agent %s was asked to answer to a topic that is no reply topic (%s...), or does not exist: such "
                "answers are not sent, they are counted in streams_answers_refused_total",
                self.name,
                conf.reply_to_prefix,
            )

    @override
    async def _execute_actor(self, coro: Any, aref: Any) -> None:
        await super()._execute_actor(self._kept_at_work(coro, aref), aref)

    async def _kept_at_work(self, coro: Awaitable[None], aref: Any) -> None:
        """Runs the body until its stream ends, again whenever it raised."""
        processors = list(aref.stream._processors)
        desk: Desk | None
        while True:
            end: BaseException | None = None
            failure: Failure | None = None
            try:
                await coro
                await self._returned(aref)
            except BaseException as error:  # whatever it is, the worker must not die of it, nor say it
                desk = aref.stream.get_active_stream().desk
                if _ends_task(error):
                    if desk is not None:
                        desk.interrupted()
                    raise
                if desk is None:
                    log.warning("agent %s raised %s%s, run again", self.name, kind_of(error), line_of(error))
                elif desk.fault is not None or self._vital or self.app.rescue.stops:
                    end = self._end(desk, desk.fault or error)
                else:
                    failure = desk.failure(error)
                    desk.raised(failure)
            else:
                desk = aref.stream.get_active_stream().desk
                if desk is None or self.should_stop:
                    return
            if end is not None:
                await self.app.crash(end)
                self.supervisor._crash(end)  # it is no child of anybody, and would start the agent again
                return
            if desk is None:
                await asyncio.sleep(PAUSE_S)
            else:
                if failure is None or failure.place is None:
                    await desk.rest.wait()
                if desk.ended:
                    return
            coro = self._again(aref, processors)

    async def _returned(self, aref: Any) -> None:
        if (desk := aref.stream.get_active_stream().desk) is not None:
            await desk.returned()

    def _end(self, desk: Desk, error: BaseException) -> Exception:
        """What ends the worker: an error of our own parts as it is, what else was raised by its type alone."""
        if isinstance(error, StreamsError) and (self._vital or error is desk.fault):
            return error
        failure = desk.failure(error)
        place = failure.place
        where = failure.where + (f": {failure.said}" if failure.said else "")
        return UserCodeError(f"agent {self.name}", failure.kind, where, *(place or ()))

    def _again(self, aref: Any, processors: list[Any]) -> Awaitable[None]:
        """The body anew, on the stream that it read last: one that was derived is not derived again."""
        stream = aref.stream.get_active_stream()
        if stream is aref.stream:
            stream._processors[:] = processors
        aref.it = self.fun(stream)
        if isinstance(aref.it, AsyncIterable):
            return self._slurp(aref, aiter(aref))
        return cast("Awaitable[None]", aref)


def _ends_task(error: BaseException) -> bool:
    """Whether somebody ends the agent's task, or the process. What a body raises by itself is its own trouble: a task
    that it waited for was cancelled, a library calls sys.exit().
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)
