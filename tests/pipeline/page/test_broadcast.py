"""Events for many viewers: each gets the newest, one that comes back what it missed, and all end at the close."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from headrace.pipeline.page import broadcast
from headrace.pipeline.page.broadcast import KEPT, VIEWERS_MAX, Broadcast, TooManyViewers


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def begin(sender: Broadcast, after: int | None = None) -> AsyncGenerator[bytes]:
    stream = sender.events(after=after)
    assert b"retry" in await anext(stream)
    return stream


def test_a_viewer_begins_with_the_newest_and_gets_each_new_one() -> None:
    async def look() -> None:
        sender = Broadcast()
        for number in (1, 2, 3):
            sender.send("frame", b"%d" % number, number=number)
        stream = await begin(sender)
        assert await anext(stream) == b"id: 3\nevent: frame\ndata: 3\n\n"
        sender.send("frame", b"4", number=4)
        sender.send("predictions", b"[]")
        assert await anext(stream) == b"id: 4\nevent: frame\ndata: 4\n\nevent: predictions\ndata: []\n\n"
        sender.close()
        assert [part async for part in stream] == []
        assert sender.viewers == 0

    run(look())


def test_a_viewer_that_comes_back_gets_what_it_missed() -> None:
    async def look() -> None:
        sender = Broadcast()
        for number in range(1, 6):
            sender.send("frame", b"%d" % number, number=number)
        found = await anext(await begin(sender, after=3))
        assert found == b"id: 4\nevent: frame\ndata: 4\n\nid: 5\nevent: frame\ndata: 5\n\n"

    run(look())


@pytest.mark.parametrize("after", [1, 10_000])
def test_a_viewer_that_missed_too_much_or_saw_another_page_begins_anew(after: int) -> None:
    async def look() -> None:
        sender = Broadcast()
        for number in range(1, KEPT + 10):
            sender.send("frame", b"x", number=number)
        stream = await begin(sender, after=after)
        assert await anext(stream) == b"event: reset\ndata: {}\n\n"
        assert (await anext(stream)).count(b"event: frame") == 1

    run(look())


def test_a_quiet_stream_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> None:
        stream = await begin(Broadcast())
        assert await anext(stream) == b": \n\n"

    monkeypatch.setattr(broadcast, "HEARTBEAT_S", 0.01)
    run(look())


def test_no_more_viewers_are_taken_than_the_page_can_bear() -> None:
    async def look() -> None:
        sender = Broadcast()
        streams = [await begin(sender) for _ in range(VIEWERS_MAX)]
        with pytest.raises(TooManyViewers):
            await anext(sender.events(after=None))
        await streams[0].aclose()
        await begin(sender)

    run(look())
