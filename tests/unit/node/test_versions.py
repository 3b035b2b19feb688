"""Two versions of a program in one cluster: old entries keep their meaning, and a missing command is told."""

from typing import Any

import pytest

from pyraft.node import Machine, MissingCommand, Stopped, command, query
from pyraft.node.testing import Cluster, simulate


class Bank(Machine):
    """Accounts."""

    def __init__(self) -> None:
        self.accounts: dict[str, int] = {}

    @command
    def pay(self, name: str, n: int) -> int:
        """Pay something in."""
        self.accounts[name] = self.accounts.get(name, 0) + n
        return self.accounts[name]

    @query
    def balance(self, name: str) -> int:
        """Look."""
        return self.accounts.get(name, 0)


class NewBank(Bank):
    """The next version: fees, and another command."""

    @command
    def pay(self, name: str, n: int) -> int:
        """Pay something in."""
        self.accounts[name] = self.accounts.get(name, 0) + n
        return self.accounts[name]

    @pay.version(2)
    def pay(self, name: str, n: int, *, fee: int = 1) -> int:
        """Pay something in, for a fee."""
        self.accounts[name] = self.accounts.get(name, 0) + n - fee
        return self.accounts[name]

    @command
    def close(self, name: str) -> int:
        """Close an account."""
        return self.accounts.pop(name)


def test_a_member_without_a_command_stops_and_goes_on_with_the_code() -> None:
    """It came back with an older program; it names command and version, and with the code does what it missed."""

    async def scenario(cluster: Cluster[Any]) -> None:
        node = cluster.nodes[1]
        await cluster.until(lambda: len(node._registry.facts) == 3)
        assert await node.machine.pay("ann", 10) == 9
        await cluster.stop(2)
        assert await node.machine.pay("ann", 10, fee=3) == 16
        old = await cluster.start(2, Bank)
        await cluster.until(lambda: old._cause is not None)
        with pytest.raises(Stopped, match="command 'pay' version 2, and the program's machine does not") as caught:
            await old.machine.pay("bob", 1)
        assert isinstance(caught.value.__cause__.__cause__, MissingCommand)
        await cluster.stop(2)
        again = await cluster.start(2)
        assert await node.machine.close("ann") == 16
        assert await again.machine.pay("bob", 5) == 4

    simulate(scenario, NewBank)


def test_calls_of_commands_that_the_leader_lacks_are_refused() -> None:
    """A newer member under an older leader is told so, and nothing gets into the log that could stop the others."""

    async def scenario(cluster: Cluster[Bank]) -> None:
        await (await cluster.lead()).transfer(2)
        await cluster.stop(1)
        new: Any = await cluster.start(1, NewBank)
        with pytest.raises(Exception, match="the leader's program has no pay in version 2"):
            await new.machine.pay("ann", 10)
        with pytest.raises(Exception, match="the leader's program has no close in version 1"):
            await new.machine.close("ann")
        assert await cluster.nodes[3].machine.pay("ann", 10) == 10
        assert await new.machine.balance("ann") == 10

    simulate(scenario, Bank)


def test_calls_of_the_last_member_that_is_upgraded_do_not_fail_once_it_is_ready() -> None:
    """The leader has been told of its program by then, and so has the member itself."""

    async def scenario(cluster: Cluster[Any]) -> None:
        await cluster.until(lambda: all(len(node._registry.facts) == 3 for node in cluster.nodes.values()))
        await (await cluster.lead()).transfer(cluster.nodes[1].id)
        for number in (2, 1, 3):
            await cluster.stop(number)
            last = await cluster.start(number, NewBank)
            await last.ready()
        assert await last.machine.pay("ann", 10) == 9
        assert await last.machine.close("ann") == 9

    simulate(scenario, Bank, seed=3)
