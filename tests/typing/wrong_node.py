"""Mistakes against pyraft.node that a type checker has to find: one in every line marked as wrong, none in the others.

Nobody runs this; test_type_checkers.py has mypy and pyright read it.
"""

from collections.abc import Coroutine
from typing import Any

from pyraft.node import Machine, Node, Settings, Unknown, command, init, query


class Shop(Machine):
    """The machine of the README."""

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}

    @command
    def take(self, item: str, n: int = 1) -> int:
        if self.stock.get(item, 0) < n:
            raise LookupError(item)
        self.stock[item] -= n
        return self.stock[item]

    @command(version=2)
    def put(self, item: str) -> None:
        self.stock[item] = 1

    @query
    def left(self, item: str) -> int:
        return self.stock.get(item, 0)

    @query
    def wrong(self, item: str) -> int:
        return self.stock.get(item)  # wrong


async def program() -> None:
    """Right and wrong uses of a node."""
    await init("data/1", "127.0.0.1:9001")
    async with Node("data/1", Shop(), settings=Settings(timeout_seconds=3), name="shop") as node:
        shop = node.machine
        number: int = await shop.take("apple")
        number = await shop.take("apple", n=2)
        number = await shop.left(item="apple")
        await shop.put("apple")
        call: Coroutine[Any, Any, int] = shop.take("apple")
        number = await call
        stock: int = shop.stock["apple"]
        print(number, stock)
        with node.timeout(0.5):
            await shop.take("apple")
        await node.outcome(Unknown("text"))
        text: str = await shop.take("apple")  # wrong
        print(text)
        await shop.take(1)  # wrong
        await shop.take()  # wrong
        await shop.take("apple", m=1)  # wrong
        await shop.left("apple", 2)  # wrong
        number = shop.take("apple")  # wrong
        await shop.sell("apple")  # wrong
        with node.timeout("long"):  # wrong
            pass
    Node("data/1")  # wrong
    Node("data/1", object())  # wrong
    Settings(timeout_seconds="3")  # wrong
    Settings(3)  # wrong
    await init("data/1")  # wrong
