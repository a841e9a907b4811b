"""The stream of this transport: an event is finished only after the agent's body has finished it.

Faust acknowledges in a `finally`, an event whose agent raised included (trap: silent loss), and what `take` gathered as
well. Here the offset moves when the agent asks for the next event and never otherwise; what it raised on comes again.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from faust.exceptions import Skip
from faust.streams import Stream, _current_event
from faust.types import EventT, TopicT
from mode import want_seconds
from mode.utils.futures import maybe_async
from typing_extensions import override

from streams.transport.chunk import Chunk, ChunkSchema
from streams.transport.desk import Desk
from streams.transport.work import ChunkWork, EventWork, Work, check

__all__ = ["ChunkStream"]


class ChunkStream(Stream[Any]):
    """A stream of chunks or of single events. One that belongs to an agent of ours has a desk."""

    app: Any  # its consumer is ours
    desk: Desk | None = None

    def belong(self, agent: str) -> None:
        """An actor of this agent reads it: what it raises on is offered again."""
        if isinstance(self.channel, TopicT):
            self.desk = Desk(self, agent, self.app.rescue, self._work)

    @override
    def clone(self, **kwargs: Any) -> Any:
        made: Any = super().clone(**kwargs)
        if self.desk is not None:
            made.belong(self.desk.agent)
        return made

    @override
    def noack(self) -> Any:
        """As Faust's. A body that is run again gets the stream it read before: that one has what it raised on."""
        return self if self._finalized and not self.enable_acks else super().noack()

    @property
    def _chunked(self) -> bool:
        return isinstance(getattr(self.channel, "schema", None), ChunkSchema)

    def __aiter__(self) -> AsyncIterator[Any]:
        iterator: AsyncGenerator[Any, None]
        if self.desk is not None:
            iterator = self._offers(self.desk)
        elif self._chunked:
            iterator = self._chunks()
        else:
            self._processors.insert(0, self._readable)
            iterator = self._events()
        self._active_agens.add(iterator)
        return iterator

    # -- of an agent ------------------------------------------------------------------------------------------

    async def _offers(self, desk: Desk, gather: Any = None) -> AsyncGenerator[Any, None]:
        self._finalized = True
        started = await self.maybe_start()
        async for value in desk.offers(gather):
            yield value
        self._channel_stop_iteration(self.channel)
        if started:
            await self.stop()
            self.service_reset()

    def _work(self, event: Any) -> Work:
        if self._chunked:
            return ChunkWork(self, self._agent, event)
        return EventWork(self, [event], several=False, acking=self.enable_acks)

    @property
    def _agent(self) -> str:
        return self.desk.agent if self.desk is not None else ""

    def accept(self, event: Any) -> bool:
        """Notes an event that came out of the channel; False: it belongs to an assignment that is over."""
        if not isinstance(event, EventT):
            return True
        if not self.app.flow_control.is_active() or self.is_stale(event):
            return False
        message = event.message
        if message.topic in self.app.topics.acking_topics and not message.tracked:
            message.tracked = True
            self.app.consumer.unacked.add(message)
            self._on_message_in(message.tp, message.offset, message)
        self._on_stream_event_in(message.tp, message.offset, self, event)
        self.events_total += 1
        return True

    def is_stale(self, event: Any) -> bool:
        """Whether the record was, or will be, fetched again."""
        if isinstance(event.value, Chunk) and not self.app.consumer.is_current(event.value):
            return True
        return bool(event.message.generation_id != self.app.consumer_generation_id)

    def set_aside(self, event: Any) -> None:
        """Nobody waits for this event when partitions go or the worker ends: it may take as long as its agent fails."""
        self.app.consumer.unacked.discard(event.message)

    def work_on(self, event: Any) -> None:
        """The event that the agent works on now; Faust's own parts ask for it."""
        _current_event.set(weakref.ref(event))
        self.current_event = event

    async def processed(self, value: Any) -> Any:
        """A value after this stream's processors. Skip: one of them leaves nothing of it."""
        for processor in self._processors:
            value = await maybe_async(processor(value))
        value = await self.on_merge(value)
        if value is self._skipped_value:
            raise Skip
        return value

    # -- several at a time ------------------------------------------------------------------------------------

    def _several(
        self, most: int, within: Any, shape: Callable[[Any, Any], Any], *, acking: bool
    ) -> AsyncGenerator[Any, None]:
        if self._chunked:
            raise TypeError("take() is for single events; a chunk is several records already: iterate over the stream")
        desk = self.desk
        assert desk is not None  # the callers have looked

        def make(events: list[Any]) -> Work:
            return EventWork(self, events, several=True, acking=acking, shape=shape)

        async def gather(first: Any) -> Work | None:
            return await desk.several(first, most, want_seconds(within) if within else None, make)

        iterator = self._offers(desk, gather)
        self._active_agens.add(iterator)
        return iterator

    @override
    def take(self, max_: int, within: Any) -> AsyncGenerator[Sequence[Any], None]:
        if self.desk is None:
            return super().take(max_, within)
        return self._several(max_, within, lambda _, value: value, acking=self.enable_acks)

    @override
    def take_events(self, max_: int, within: Any) -> AsyncGenerator[Sequence[Any], None]:
        if self.desk is None:
            return super().take_events(max_, within)
        return self._several(max_, within, lambda event, _: event, acking=self.enable_acks)

    @override
    def take_with_timestamp(
        self, max_: int, within: Any, timestamp_field_name: str
    ) -> AsyncGenerator[Sequence[Any], None]:
        if self.desk is None:
            return super().take_with_timestamp(max_, within, timestamp_field_name)

        def shape(event: Any, value: Any) -> Any:
            return {**value, timestamp_field_name: event.message.timestamp}

        return self._several(max_, within, shape, acking=self.enable_acks)

    @override
    def noack_take(self, max_: int, within: Any) -> AsyncGenerator[Sequence[Any], None]:
        if self.desk is None:
            return super().noack_take(max_, within)
        return self._several(max_, within, lambda _, value: value, acking=False)

    # -- of anybody else --------------------------------------------------------------------------------------

    def _readable(self, value: Any) -> Any:
        """A value as it is. UnreadableRecordError: nobody but an agent can leave its record to a dead letter."""
        if self.current_event is not None:
            check(self.current_event)
        return value

    async def _chunks(self) -> AsyncGenerator[Any, None]:
        self.enable_acks = False
        async for _ in super().__aiter__():
            event = self.current_event
            if event is None or self.is_stale(event):
                continue
            work = ChunkWork(self, "", event)
            share = await work.open(0, len(work))
            yield share
            work.close()
            await work.keep(0, len(work))

    async def _events(self) -> AsyncGenerator[Any, None]:
        inner = super().__aiter__()
        while True:
            # take() and its siblings switch acks off and acknowledge by themselves: leave them alone.
            acking, self.enable_acks = self.enable_acks, False
            try:
                value = await anext(inner)
            except StopAsyncIteration:
                return
            finally:
                self.enable_acks = acking
            event: EventT[Any] | None = self.current_event
            yield value
            if acking and event is not None:
                await self.ack(event)
