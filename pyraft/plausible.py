"""Numbers in messages that no honest server can have sent.

Duty: `problem` says what is impossible about a message, before anything is done with it. Terms only rise, and are
stored before they are used: one message with the last term there is would leave no term for the next election, on
any server, for ever. An accepted term always has successors that are accepted too.

Happy path: a term is at most 2^32 elections ahead of ours, which at one per ms takes 50 days, and beyond 2^62 at most
2^16. So it takes 2^30 messages, each stored, to 2^62. A leader's log has no entry of a later term than its own, so
neither entries nor their predecessor nor a snapshot are of a term above the message's. A candidate asks for a term
behind that of its log, in a pre-vote too, and an order to take over names the end of its leader's log. A snapshot may
bring an empty server anywhere, but no further than 2^62. With entries and snapshots that have no term, or no members, a
log would not load again, and with a vote for server 0, which stands for none, one server would have two.

Three things pass although the paper rules them out. A snapshot may have the configuration of an entry behind its end:
C takes such ones (snapshot.is_due). Terms may fall from one entry to the next: C's raft_recover writes its entry with
term 1 whatever is in front of it (B2), and a leader with such a log could not give it to anybody. The index in an
answer may be too large: the leader takes nobody to have more than its own log (recv_append_entries_result).

Failure modes: none; the caller drops and logs what is refused. libraft takes any term, and asserts on some of the rest.
"""

from typing import Final

from pyraft.types import EntryBatch, RaftMessage

FARTHEST: Final = 1 << 62
"""How far one message may bring a log."""
TERM_STEP: Final = 1 << 32
"""How far one message may bring our term."""
LAST_TERM_STEP: Final = 1 << 16
"""How far one message may bring our term from FARTHEST on."""


def problem(current_term: int, message: RaftMessage) -> str:
    """Return what is impossible about a message to a server in this term; "" if nothing is."""
    result = message.append_entries_result
    if result is not None and (result.last_log_index < 0 or result.rejected < 0):
        return f"an answer about entries {result.last_log_index} and {result.rejected}"
    if result is not None and result.term <= current_term:
        # A busy leader gets these all the time.
        return ""
    term = _term_of(message)
    if term > current_term + TERM_STEP or (term > FARTHEST and term > current_term + LAST_TERM_STEP):
        return f"term {term} is further ahead of ours, {current_term}, than elections can explain"
    append = message.append_entries
    if append is not None:
        terms = EntryBatch.of(append.entries, len(append.entries)).terms
        # A C server whose metadata were lost goes on in a term before that of its log. It may have voted twice, and
        # lead over its own entries: it is not believed either, as on the wire (io_uv.encoding).
        if terms and (max(terms) > term or min(terms) < 1):
            wrong = min(terms) if min(terms) < 1 else max(terms)
            return f"an entry of term {wrong} in a message of term {term}"
        if append.prev_log_term > term or append.prev_log_index < 0:
            return f"entry {append.prev_log_index} of term {append.prev_log_term} in a message of term {term}"
        return ""
    install = message.install_snapshot
    if install is not None:
        if install.last_term > term or (install.last_term < 1 and install.last_index > 0):
            return f"a snapshot of term {install.last_term} in a message of term {term}"
        if install.last_index > FARTHEST:
            return f"a snapshot of entry {install.last_index}"
        if not install.conf.servers:
            return f"a snapshot of entry {install.last_index} without members"
    vote, order = message.request_vote, message.timeout_now
    if vote is not None and vote.candidate_id < 1:
        return "a request to vote for nobody"
    if vote is not None and vote.last_log_term > term:
        return f"a log that ends with an entry of term {vote.last_log_term} in a message of term {term}"
    if order is not None and order.last_log_term > term:
        return f"a log that ends with an entry of term {order.last_log_term} in a message of term {term}"
    return ""


def _term_of(message: RaftMessage) -> int:
    if message.append_entries is not None:
        return message.append_entries.term
    if message.append_entries_result is not None:
        return message.append_entries_result.term
    if message.request_vote is not None:
        return message.request_vote.term
    if message.request_vote_result is not None:
        return message.request_vote_result.term
    if message.install_snapshot is not None:
        return message.install_snapshot.term
    if message.timeout_now is not None:
        return message.timeout_now.term
    return 0
