/* A raft server on the C library, driven by lines on standard input, for the tests beside it.
 *
 *     server DIR ID ADDRESS [NAME=NUMBER ...]
 *
 * NAME is one of segment, compression, recovery (raft_uv_set_auto_recovery), election, heartbeat, threshold, trailing,
 * install (timeout), prevote, retry (connect delay) and blob (bytes that a snapshot carries besides its 24 bytes of state).
 *
 * Lines in: bootstrap SERVERS | recover SERVERS | start | status | quit | apply REQ HEX | barrier REQ |
 * add REQ ID ADDRESS | assign REQ ID ROLE | remove REQ ID | transfer REQ ID. SERVERS is ID=ADDRESS/ROLE,...
 * Lines out: "ok" or "error CODE TEXT" for what answers at once (REQ 0), "done REQ CODE INDEX" for a request that ended,
 * "status ..." (see print_status), "bye" as the last line of a clean stop. End of input is a quit.
 *
 * The FSM counts entries and bytes and chains a checksum over all payloads, so equal chains mean equal histories.
 */
#include <raft.h>
#include <raft/uv.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fsm_state
{
    uint64_t count, bytes, chain;
};

struct request
{
    uint64_t number;
    union {
        struct raft_apply apply;
        struct raft_barrier barrier;
        struct raft_change change;
        struct raft_transfer transfer;
    } raft;
};

static uv_loop_t loop;
static uv_pipe_t input;
static struct raft_uv_transport transport;
static struct raft_io io;
static struct raft_fsm fsm;
static struct raft raft;
static struct fsm_state state;
static size_t blob_size;
static bool closing;
static uint32_t crc_table[256];
static char *line;
static size_t line_len, line_size;

/* FSM ***************************************************************/

static void crc_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        }
        crc_table[i] = c;
    }
}

static uint32_t crc(const uint8_t *data, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c = crc_table[(c ^ data[i]) & 0xff] ^ (c >> 8);
    }
    return ~c;
}

static int fsm_apply(struct raft_fsm *f, const struct raft_buffer *buf, void **result)
{
    (void)f;
    state.count += 1;
    state.bytes += buf->len;
    state.chain = state.chain * 6364136223846793005u + crc(buf->base, buf->len) + buf->len;
    *result = NULL;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *f, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    (void)f;
    *n_bufs = blob_size > 0 ? 2 : 1;
    *bufs = raft_malloc(*n_bufs * sizeof **bufs);
    (*bufs)[0].len = sizeof state;
    (*bufs)[0].base = raft_malloc(sizeof state);
    memcpy((*bufs)[0].base, &state, sizeof state);
    if (blob_size > 0) {
        uint8_t *blob = raft_malloc(blob_size);
        for (size_t i = 0; i < blob_size; i++) {
            blob[i] = (uint8_t)((state.chain >> (i % 8 * 8)) + i / 8);
        }
        (*bufs)[1].len = blob_size;
        (*bufs)[1].base = blob;
    }
    return 0;
}

static int fsm_restore(struct raft_fsm *f, struct raft_buffer *buf)
{
    struct fsm_state fresh;
    const uint8_t *blob = (const uint8_t *)buf->base + sizeof fresh;
    (void)f;
    if (buf->len < sizeof fresh) {
        return RAFT_MALFORMED;
    }
    memcpy(&fresh, buf->base, sizeof fresh);
    for (size_t i = 0; i < buf->len - sizeof fresh; i++) {
        if (blob[i] != (uint8_t)((fresh.chain >> (i % 8 * 8)) + i / 8)) {
            return RAFT_MALFORMED;
        }
    }
    state = fresh;
    raft_free(buf->base);
    return 0;
}

/* Answers ***********************************************************/

static void answer(int rv, const char *text)
{
    if (rv == 0) {
        printf("ok\n");
    } else {
        printf("error %d %s\n", rv, text);
    }
}

static void done(struct request *req, int status, raft_index index)
{
    printf("done %" PRIu64 " %d %llu\n", req->number, status, index);
    free(req);
}

static void apply_cb(struct raft_apply *r, int status, void *result)
{
    (void)result;
    done(r->data, status, r->index);
}

static void barrier_cb(struct raft_barrier *r, int status)
{
    done(r->data, status, r->index);
}

static void change_cb(struct raft_change *r, int status)
{
    done(r->data, status, 0);
}

static void transfer_cb(struct raft_transfer *r)
{
    done(r->data, 0, 0);
}

/* status STATE TERM LEADER LAST COMMIT APPLIED COUNT BYTES CHAIN ID:ROLE,... */
static void print_status(void)
{
    raft_id id;
    const char *address;
    raft_leader(&raft, &id, &address);
    printf("status %d %llu %llu %llu %llu %llu %" PRIu64 " %" PRIu64 " %" PRIu64 " ", raft_state(&raft),
           raft.current_term, id, raft_last_index(&raft), raft.commit_index, raft_last_applied(&raft), state.count,
           state.bytes, state.chain);
    for (unsigned i = 0; i < raft.configuration.n; i++) {
        struct raft_server *s = &raft.configuration.servers[i];
        printf("%s%llu:%d", i == 0 ? "" : ",", s->id, s->role);
    }
    printf("%s\n", raft.configuration.n == 0 ? "-" : "");
}

/* Commands **********************************************************/

static int parse_servers(char *text, struct raft_configuration *conf)
{
    raft_configuration_init(conf);
    for (char *item = strtok(text, ","); item != NULL; item = strtok(NULL, ",")) {
        char *address = strchr(item, '=');
        char *role = strchr(item, '/');
        if (address == NULL || role == NULL) {
            return RAFT_INVALID;
        }
        *address++ = *role++ = 0;
        int rv = raft_configuration_add(conf, strtoull(item, NULL, 10), address, atoi(role));
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static void configure(char *servers, int (*f)(struct raft *, const struct raft_configuration *))
{
    struct raft_configuration conf;
    int rv = parse_servers(servers, &conf);
    if (rv == 0) {
        rv = f(&raft, &conf);
    }
    answer(rv, io.errmsg);
    raft_configuration_close(&conf);
}

static int do_apply(struct request *req, const char *hex)
{
    struct raft_buffer buf;
    buf.len = strlen(hex) / 2;
    buf.base = raft_malloc(buf.len + 1);
    for (size_t i = 0; i < buf.len; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        ((uint8_t *)buf.base)[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    int rv = raft_apply(&raft, &req->raft.apply, &buf, 1, apply_cb);
    if (rv != 0) {
        raft_free(buf.base);
    }
    return rv;
}

static void request(const char *command, uint64_t number, char *rest)
{
    struct request *req = calloc(1, sizeof *req);
    char *argument = strtok(rest, " ");
    char *second = strtok(NULL, " ");
    raft_id id = argument != NULL ? strtoull(argument, NULL, 10) : 0;
    int rv = RAFT_INVALID;
    req->number = number;
    req->raft.apply.data = req->raft.change.data = req->raft.transfer.data = req;
    if (strcmp(command, "apply") == 0) {
        rv = do_apply(req, argument != NULL ? argument : "");
    } else if (strcmp(command, "barrier") == 0) {
        rv = raft_barrier(&raft, &req->raft.barrier, barrier_cb);
    } else if (strcmp(command, "add") == 0) {
        rv = raft_add(&raft, &req->raft.change, id, second, change_cb);
    } else if (strcmp(command, "assign") == 0) {
        rv = raft_assign(&raft, &req->raft.change, id, atoi(second), change_cb);
    } else if (strcmp(command, "remove") == 0) {
        rv = raft_remove(&raft, &req->raft.change, id, change_cb);
    } else if (strcmp(command, "transfer") == 0) {
        rv = raft_transfer(&raft, &req->raft.transfer, id, transfer_cb);
    }
    if (rv != 0) {
        done(req, rv, 0);
    }
}

static void raft_closed(struct raft *r)
{
    (void)r;
    raft_uv_close(&io);
    raft_uv_tcp_close(&transport);
}

static void quit(void)
{
    if (!closing) {
        closing = true;
        uv_close((uv_handle_t *)&input, NULL);
        raft_close(&raft, raft_closed);
    }
}

static void execute(char *text)
{
    char *rest = strchr(text, ' ');
    if (rest != NULL) {
        *rest++ = 0;
    }
    if (strcmp(text, "bootstrap") == 0) {
        configure(rest, raft_bootstrap);
    } else if (strcmp(text, "recover") == 0) {
        configure(rest, raft_recover);
    } else if (strcmp(text, "start") == 0) {
        int rv = raft_start(&raft);
        answer(rv, raft_errmsg(&raft));
    } else if (strcmp(text, "status") == 0) {
        print_status();
    } else if (strcmp(text, "quit") == 0) {
        quit();
    } else if (rest != NULL) {
        char *end;
        uint64_t number = strtoull(rest, &end, 10);
        request(text, number, end);
    }
}

static void input_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    if (line_size - line_len < 65536) {
        line_size = line_size * 2 + 65536;
        line = realloc(line, line_size);
    }
    buf->base = line + line_len;
    buf->len = line_size - line_len;
}

static void input_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    char *start = line, *end;
    (void)stream;
    (void)buf;
    if (n < 0) {
        quit();
        return;
    }
    line_len += (size_t)n;
    while (!closing && (end = memchr(start, '\n', line_len - (size_t)(start - line))) != NULL) {
        *end = 0;
        execute(start);
        start = end + 1;
    }
    line_len -= (size_t)(start - line);
    memmove(line, start, line_len);
}

/* Start *************************************************************/

static void set(const char *name, unsigned value)
{
    if (strcmp(name, "segment") == 0) {
        raft_uv_set_segment_size(&io, value);
    } else if (strcmp(name, "compression") == 0) {
        raft_uv_set_snapshot_compression(&io, value != 0);
    } else if (strcmp(name, "recovery") == 0) {
        raft_uv_set_auto_recovery(&io, value != 0);
    } else if (strcmp(name, "retry") == 0) {
        raft_uv_set_connect_retry_delay(&io, value);
    } else if (strcmp(name, "election") == 0) {
        raft_set_election_timeout(&raft, value);
    } else if (strcmp(name, "heartbeat") == 0) {
        raft_set_heartbeat_timeout(&raft, value);
    } else if (strcmp(name, "threshold") == 0) {
        raft_set_snapshot_threshold(&raft, value);
    } else if (strcmp(name, "trailing") == 0) {
        raft_set_snapshot_trailing(&raft, value);
    } else if (strcmp(name, "install") == 0) {
        raft_set_install_snapshot_timeout(&raft, value);
    } else if (strcmp(name, "prevote") == 0) {
        raft_set_pre_vote(&raft, value != 0);
    } else if (strcmp(name, "blob") == 0) {
        blob_size = value;
    }
}

int main(int argc, char *argv[])
{
    int rv;
    if (argc < 4) {
        fprintf(stderr, "usage: server DIR ID ADDRESS [NAME=NUMBER ...]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    crc_init();
    uv_loop_init(&loop);
#ifdef TRANSPORT_VERSION /* The field is there since 0.16, and has to be set. */
    transport.version = TRANSPORT_VERSION;
#endif
    rv = raft_uv_tcp_init(&transport, &loop);
    if (rv == 0) {
        rv = raft_uv_init(&io, &loop, argv[1], &transport);
    }
    if (rv != 0) {
        answer(rv, io.errmsg);
        return 1;
    }
    fsm.version = 1;
    fsm.apply = fsm_apply;
    fsm.snapshot = fsm_snapshot;
    fsm.restore = fsm_restore;
    rv = raft_init(&raft, &io, &fsm, strtoull(argv[2], NULL, 10), argv[3]);
    if (rv != 0) {
        answer(rv, raft_errmsg(&raft));
        return 1;
    }
    srandom((unsigned)strtoull(argv[2], NULL, 10) ^ (unsigned)uv_hrtime());
    for (int i = 4; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        *value++ = 0;
        set(argv[i], (unsigned)strtoul(value, NULL, 10));
    }
    uv_pipe_init(&loop, &input, 0);
    uv_pipe_open(&input, 0);
    uv_read_start((uv_stream_t *)&input, input_alloc, input_read);
    answer(0, "");
    uv_run(&loop, UV_RUN_DEFAULT);
    printf("bye\n");
    return 0;
}
