"""The part of nodes and clients that asks about members, and has them changed.

Duty: `Asking` has `members` and the changes of members, as errands that whoever leads carries out.

Happy path: `await node.members()`, `await client.transfer()`.

Failure modes: Unavailable if no leader answers in time, Refused, with the reason, for what can never be done. A leader
of an older version tells less about members, and refuses changes that it does not know.
"""

from typing import Any

from pyraft.node.council import Member
from pyraft.node.errors import Malformed, Refused
from pyraft.node.service import NOBODY_KNOWS


def _member(id: int) -> int:
    """Return the id of a member. Raises TypeError for another type, which older leaders take for a removed member."""
    if type(id) is not int:
        raise TypeError(f"the id of a member must be a whole number, as in members(), not {id!r:.60}")
    return id


class Asking:
    """See the head of this module."""

    async def _errand(self, what: str, *arguments: Any) -> Any:
        """Have whoever leads answer a question, or carry out a change."""
        raise NotImplementedError

    async def members(self) -> list[Member]:
        """Return the members, as the leader sees them. Raises Unavailable if none answers in time, or Malformed."""
        try:
            found = await self._errand("roster")
        except Refused as exc:
            if NOBODY_KNOWS not in str(exc):
                raise
            return [Member(*member) for member in await self._errand("members")]
        try:
            fields = Member.__dataclass_fields__
            return [Member(**{name: value for name, value in member.items() if name in fields}) for member in found]
        except (TypeError, AttributeError):
            raise Malformed("an answer that is not a list of members") from None

    async def remove(self, id: int) -> None:
        """Remove a member; the leader hands over first. It may have been removed before."""
        await self._errand("remove", _member(id))

    async def replace(self, id: int, by: int = 0) -> int:
        """Remove a member and have another one vote in its place: `by`, or the best of those that stand by.

        Return which one does, 0 if `id` has been removed already. Refused if nobody stands by.
        """
        return int(await self._errand("replace", _member(id), _member(by)))

    async def promote(self, id: int) -> str:
        """Have a member vote, if there are fewer than Settings.voters, else stand by; return which."""
        return str(await self._errand("promote", _member(id)))

    async def demote(self, id: int) -> None:
        """Have a member stand by until it is promoted; the leader hands over first."""
        await self._errand("demote", _member(id))

    async def transfer(self, id: int = 0) -> int:
        """Have another member lead, 0 for any; return which one does."""
        return int(await self._errand("transfer", _member(id)))
