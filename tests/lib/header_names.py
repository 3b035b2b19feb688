"""The public names of the three C headers, letter for letter, and what this project adds to them.

Taken from libraft 0.18.1. A struct tag stands for the class of that name in CapWords (raft_io_append: RaftIoAppend).
"""


def words(text: str) -> list[str]:
    """Return the words of a text."""
    return text.split()


def class_name(tag: str) -> str:
    """Return the class that stands for a struct tag: raft_io_append → RaftIoAppend."""
    return "".join(word.capitalize() for word in tag.split("_"))


RAFT_H_FUNCTIONS = words("""
raft_add raft_aligned_alloc raft_aligned_free raft_apply raft_assign raft_barrier raft_bootstrap raft_calloc raft_close
raft_configuration_add raft_configuration_close raft_configuration_encode raft_configuration_init raft_digest
raft_errmsg raft_free raft_heap_get raft_heap_set raft_heap_set_default raft_init raft_last_applied raft_last_index
raft_leader raft_malloc raft_realloc raft_recover raft_register_state_cb raft_remove raft_role
raft_set_election_timeout raft_set_heartbeat_timeout raft_set_install_snapshot_timeout
raft_set_max_catch_up_round_duration raft_set_max_catch_up_rounds raft_set_pre_vote raft_set_snapshot_threshold
raft_set_snapshot_trailing raft_start raft_state raft_strerror raft_transfer raft_version_number raft_voter_contacts
""")

RAFT_H_TYPES = words("""
raft_apply_cb raft_barrier_cb raft_change_cb raft_close_cb raft_flags raft_id raft_index raft_io_append_cb
raft_io_async_work_cb raft_io_async_work_fn raft_io_close_cb raft_io_recv_cb raft_io_send_cb raft_io_snapshot_get_cb
raft_io_snapshot_put_cb raft_io_tick_cb raft_state_cb raft_term raft_time raft_transfer_cb
""")

RAFT_H_STRUCTS = words("""
raft raft_append_entries raft_append_entries_result raft_apply raft_barrier raft_buffer raft_change raft_configuration
raft_entry raft_fsm raft_heap raft_install_snapshot raft_io raft_io_append raft_io_async_work raft_io_send
raft_io_snapshot_get raft_io_snapshot_put raft_message raft_request_vote raft_request_vote_result raft_server
raft_snapshot raft_timeout_now raft_tracer raft_transfer
""")
"""Without raft_log and raft_progress, which the header only names: users never see their content."""

RAFT_H_CONSTANTS = words("""
RAFT_APPEND_ENTRIES_RESULT_VERSION RAFT_APPEND_ENTRIES_VERSION RAFT_BADID RAFT_BADROLE RAFT_BARRIER RAFT_BUSY
RAFT_CANCELED RAFT_CANDIDATE RAFT_CANTBOOTSTRAP RAFT_CANTCHANGE RAFT_CHANGE RAFT_COMMAND RAFT_CORRUPT
RAFT_DUPLICATEADDRESS RAFT_DUPLICATEID RAFT_ERRMSG_BUF_SIZE RAFT_FOLLOWER RAFT_INSTALL_SNAPSHOT_VERSION RAFT_INVALID
RAFT_IOERR RAFT_IO_APPEND_ENTRIES RAFT_IO_APPEND_ENTRIES_RESULT RAFT_IO_INSTALL_SNAPSHOT RAFT_IO_REQUEST_VOTE
RAFT_IO_REQUEST_VOTE_RESULT RAFT_IO_TIMEOUT_NOW RAFT_LEADER RAFT_LEADERSHIPLOST RAFT_MALFORMED RAFT_NAMETOOLONG
RAFT_NOCONNECTION RAFT_NOMEM RAFT_NOSPACE RAFT_NOTFOUND RAFT_NOTLEADER RAFT_REQUEST_VOTE_RESULT_VERSION
RAFT_REQUEST_VOTE_VERSION RAFT_SHUTDOWN RAFT_SPARE RAFT_STANDBY RAFT_TIMEOUT_NOW_VERSION RAFT_TOOBIG RAFT_TOOMANY
RAFT_UNAUTHORIZED RAFT_UNAVAILABLE RAFT_VERSION_MAJOR RAFT_VERSION_MINOR RAFT_VERSION_NUMBER RAFT_VERSION_RELEASE
RAFT_VOTER
""")

RAFT_ADDITIONS = {
    "Buffer": "the type of what is accepted where C takes a raft_buffer",
    "EntryBatch": "entries as columns; the library hands these out where C has an array of raft_entry",
    "NoopTracer": "stock tracer of src/tracing.h, which C applications link against too",
    "StderrTracer": "stock tracer of src/tracing.h",
    "RaftLog": "struct raft_log, which raft.h only names: the type of raft.log",
    "RaftProgress": "struct raft_progress, which raft.h only names: the type of raft.leader_state.progress",
    "RaftRequest": "the fields that the macro RAFT__REQUEST puts into every request",
    "RaftReadIndex": "the request of raft_read_index",
    "raft_read_index": "linearizable reads without an entry (dissertation 6.4)",
    "raft_read_index_cb": "its callback",
    "raft_promote": "older spelling of raft_assign to RAFT_VOTER, still in the C README",
    "raft_set_max_append_bytes": "bounds one AppendEntries (B31)",
    "raft_set_max_inflight_bytes": "bounds what is on its way to one follower",
    "raft_tracer_maybe_enable": "src/tracing.h: LIBRAFT_TRACE for a tracer",
}
RAFT_ADDED_TYPES = words("raft_read_index_cb")

UV_H_FUNCTIONS = words("""
raft_uv_close raft_uv_init raft_uv_set_auto_recovery raft_uv_set_block_size raft_uv_set_connect_retry_delay
raft_uv_set_segment_size raft_uv_set_snapshot_compression raft_uv_set_tracer raft_uv_tcp_close raft_uv_tcp_init
raft_uv_tcp_set_bind_address
""")
UV_H_TYPES = words("raft_uv_accept_cb raft_uv_connect_cb raft_uv_transport_close_cb")
UV_H_STRUCTS = words("raft_uv_connect raft_uv_transport")
UV_ADDITIONS: dict[str, str] = {
    "RaftUvStream": "what a transport hands over, where C has uv_stream_t",
    "RaftUvDuplex": "a stream that is used in both directions",
    "RaftUvGuest": "an accepted connection of another protocol",
    "RaftUvDial": "a request for a stream to an address",
    "RaftUvHandshake": "how connections between servers begin",
    "RaftUvHandshakeReader": "reads one such beginning",
    "Limits": "what peers may send and what is queued for them",
    "pyuv": "the loop that everything runs on",
    "raft_uv_set_snapshot_check": "looks at a leader's snapshot before it is stored",
    "raft_uv_limits": "returns the limits of an instance",
    "raft_uv_dial": "opens a stream for a protocol of one's own",
    "raft_uv_dial_cb": "who gets it",
    "raft_uv_dialer": "who opens streams for the transport",
    "raft_uv_set_dialer": "sets that",
    "raft_uv_opening": "what comes first on a stream that was opened",
    "raft_uv_set_opening": "sets that",
    "raft_uv_set_handshake": "sets how connections between servers begin",
    "raft_uv_serve": "another protocol on the transport's port",
    "raft_uv_serve_cb": "who takes its connections",
    "raft_uv_upgrade": "hands such a connection on to raft",
    "raft_uv_tls_init": "TLS beside plain TCP",
    "raft_uv_tls_reload": "renewed certificates without a restart",
    "raft_uv_tls_set_policy": "whose a certificate is",
}
UV_ADDED_TYPES = words("raft_uv_dial_cb raft_uv_dialer raft_uv_opening raft_uv_serve_cb")

FIXTURE_H_FUNCTIONS = words("""
raft_fixture_add_entry raft_fixture_alive raft_fixture_append_fault raft_fixture_bootstrap raft_fixture_close
raft_fixture_configuration raft_fixture_depose raft_fixture_desaturate raft_fixture_disconnect raft_fixture_elect
raft_fixture_event_server_index raft_fixture_event_type raft_fixture_get raft_fixture_grow raft_fixture_hook
raft_fixture_init raft_fixture_kill raft_fixture_leader_index raft_fixture_make_unavailable raft_fixture_n
raft_fixture_n_recv raft_fixture_n_send raft_fixture_reconnect raft_fixture_revive raft_fixture_saturate
raft_fixture_saturated raft_fixture_send_fault raft_fixture_set_disk_latency raft_fixture_set_network_latency
raft_fixture_set_randomized_election_timeout raft_fixture_set_send_latency raft_fixture_set_snapshot
raft_fixture_set_term raft_fixture_start raft_fixture_start_elect raft_fixture_step raft_fixture_step_n
raft_fixture_step_until raft_fixture_step_until_applied raft_fixture_step_until_delivered
raft_fixture_step_until_elapsed raft_fixture_step_until_has_leader raft_fixture_step_until_has_no_leader
raft_fixture_step_until_state_is raft_fixture_step_until_term_is raft_fixture_step_until_voted_for
raft_fixture_term_fault raft_fixture_time raft_fixture_vote_fault raft_fixture_voted_for
""")
FIXTURE_H_TYPES = ["raft_fixture_event_cb"]
FIXTURE_H_STRUCTS = words("raft_fixture raft_fixture_event")
FIXTURE_H_CONSTANTS = words("""
RAFT_FIXTURE_DISK RAFT_FIXTURE_MAX_SERVERS RAFT_FIXTURE_NETWORK RAFT_FIXTURE_TICK RAFT_FIXTURE_WORK
""")
FIXTURE_ADDITIONS: dict[str, str] = {}
