"""Why a healed cluster may stand still all the same: only because nobody can lead it without losing what may be lost.

Duty: `reason` looks at the logs of all servers that run and says whether one of them could be elected by the rules. If
one could, there is no excuse, whatever a recovering server has written into its log. The rules are restated here from
the dissertation and the READMEs, not asked of the core:

* a candidate is a voter by its own latest configuration, or by the one before while the latest is uncommitted;
* it needs a majority of the voters of the latest configuration;
* a voter votes for a log that is at least as good as its own (3.6.1), if it is a member by its own log: the disk of
  another one may have been replaced;
* a voter that recovers from damage votes only for a log that ends in a later term than that from which it recovers.
"""

from typing import TYPE_CHECKING

from pyraft import RAFT_LEADER, RAFT_VOTER, Raft, RaftConfiguration, configuration, log, membership

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World


def reason(world: "World") -> str:
    """Return why there is no leader, "" if there is one or there could be one."""
    running = [node for node in world.nodes.values() if node.up]
    if any(node.raft.state == RAFT_LEADER for node in running) or any(_electable(world, node) for node in running):
        return ""
    recovering = [node for node in running if node.raft.recovering]
    if not all(node.raft.recovery_told for node in recovering if _is(node.raft, node.raft.configuration, voter=True)):
        return ""
    why = [f"server {node.id} recovers from damage" for node in recovering]
    why += [f"server {node.id} does not start" for node in world.nodes.values() if node.gave_up]
    why += [f"server {node.id} has another disk" for node in running if node.disk.lacks_what_it_had]
    return ", ".join(why)


def _electable(world: "World", node: "Node") -> bool:
    """Return whether a server can be elected with the logs as they are."""
    r = node.raft
    if r.recovering or not _may_stand(r):
        return False
    voters = [server.id for server in r.configuration.servers if server.role == RAFT_VOTER]
    votes = sum(id == node.id or _votes_for(world.nodes[id], r) for id in voters)
    return votes > len(voters) // 2


def _may_stand(r: Raft) -> bool:
    if _is(r, r.configuration, voter=True):
        return True
    return r.configuration_uncommitted_index != 0 and _is(r, _before(r), voter=True)


def _votes_for(node: "Node", candidate: Raft) -> bool:
    r = node.raft
    if not node.up:
        return False
    if r.recovering and _end(candidate)[0] <= r.recovery_term:
        return False
    member = _is(r, r.configuration) or (r.configuration_uncommitted_index != 0 and _is(r, _before(r)))
    return member and _end(candidate) >= (log.last_term(r.log), log.last_index(r.log))


def _end(r: Raft) -> tuple[int, int]:
    return log.term_of(r.log, r.last_stored), r.last_stored


def _is(r: Raft, conf: RaftConfiguration, voter: bool = False) -> bool:
    server = configuration.get(conf, r.id)
    return server is not None and (not voter or server.role == RAFT_VOTER)


def _before(r: Raft) -> RaftConfiguration:
    return membership.fetch_last_committed_configuration(r)[1]
