"""io.send: when messages are called back that the system has taken at once, and in which order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv.client import flush
from pyraft.types import RaftIoSend, RaftMessage
from tests.integration.test_uv_send import Sender, big
from tests.lib.uvtest import run_until


@pytest.fixture
def f(tmp_path: Path) -> Iterator[Sender]:
    """A sender and its peer."""
    sender = Sender(tmp_path)
    yield sender
    sender.close()
    sender.peer.close()
    assert sender.reported == []


def test_what_the_system_takes_is_called_back_behind_all_writes(f: Sender) -> None:
    """Callbacks come at the turn's end, in the order of the messages, when those for all servers are written."""
    assert f.send() == 0
    order: list[str] = []
    client = f.uv.clients[0]
    write = client.stream.write_now

    def record(data: Any, cb: Any) -> bool:
        order.append("write")
        taken: bool = write(data, cb)
        return taken

    client.stream.write_now = record

    def called_back(req: RaftIoSend, status: int) -> None:
        order.append(f"{req.data} {status}")
        if req.data == "first":
            assert f.io.send(f.io, request("third"), f.message(), called_back) == 0

    def request(name: str) -> RaftIoSend:
        req = RaftIoSend()
        req.data = name
        return req

    for name in ("first", "second"):
        assert f.io.send(f.io, request(name), f.message(), called_back) == 0
    assert order == []
    flush(f.uv)
    assert order == ["write", "first 0", "second 0"]
    run_until(f.loop, lambda: len(order) == 5)
    assert order[3:] == ["write", "third 0"]


def test_messages_behind_one_that_waits_are_called_back_behind_it(f: Sender) -> None:
    """A message that is sent when the system has just taken the rest of a message is not called back before that
    one."""
    assert f.send() == 0
    connection = f.peer.accept()
    order: list[str] = []
    stream = f.uv.clients[0].stream
    finish = stream._finish_write

    def submit(name: str, message: RaftMessage) -> None:
        def cb(req: RaftIoSend, status: int) -> None:
            order.append(f"{name} {status}")

        assert f.io.send(f.io, RaftIoSend(), message, cb) == 0
        flush(f.uv)

    def finish_and_submit(code: int | None) -> None:
        finish(code)
        submit("small", f.message())

    stream._finish_write = finish_and_submit
    submit("large", big(f, 8 << 20))
    assert order == []
    run_until(f.loop, lambda: connection.pump() and len(order) == 2)
    assert order == ["large 0", "small 0"]
