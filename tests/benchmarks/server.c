/* A server of the C library under load of its own making, for the benchmarks; server.py is its counterpart.
 *
 *     server DIR ID ADDRESS,ADDRESS,... [NAME=NUMBER ...]
 *
 * ID counts from 1 and picks the server's own address. A directory without metadata is bootstrapped with all addresses
 * as voters. NAME is one of threshold, trailing, segment, election, heartbeat, and state (bytes of the FSM's state).
 *
 * First line out: "started MICROSECONDS LAST", the time that raft_start took and the last index loaded. Then, per line in:
 *
 *     load CALLS BUFFERS BYTES SECONDS COUNT   keep CALLS raft_apply calls of BUFFERS entries of BYTES bytes outstanding,
 *                                              for SECONDS or until COUNT entries are submitted (0: no such limit); then
 *                                              wait for all: "loaded ENTRIES MICROSECONDS P50 P99 MAX FAILED LAST":
 *                                              latencies of calls in nanoseconds, LAST the number of the last entry
 *     status                                   "status STATE LEADER LAST APPLIED COUNT": role, leader, indexes, and
 *                                              the entries that the FSM counted
 *     stall on|off                             begin or end to watch for stalls with a timer of 2 ms: "stall LONGEST P999",
 *                                              the longest time by which it was late and the 99.9th percentile, in µs
 *     quit                                     stop: "bye"
 *
 * The first 8 bytes of an entry are its number, from 1 in the order of submission.
 */
#include <raft.h>
#include <raft/uv.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WATCH_MSECS 2

struct call
{
    struct raft_apply req;
    uint64_t began;
};

static uv_loop_t loop;
static uv_pipe_t input;
static uv_timer_t watch;
static struct raft_uv_transport transport;
static struct raft_io io;
static struct raft_fsm fsm;
static struct raft raft;
static char input_buf[4096];
static size_t input_len;
static bool closing;

/* The FSM: a count, and as much state as it is told to have. */
static uint64_t count;
static uint8_t *state;
static size_t state_size = 64;

/* The load. */
static unsigned buffers, bytes;
static uint64_t number, limit, began, deadline, n_done, n_failed;
static unsigned outstanding;
static uint64_t *latencies;
static size_t n_latencies, latencies_size;

/* The watch. */
static uint64_t last_seen;
static uint64_t *gaps;
static size_t n_gaps, gaps_size;

static int fsm_apply(struct raft_fsm *f, const struct raft_buffer *buf, void **result)
{
    (void)f;
    count += 1;
    memcpy(state + 8, buf->base, 8);
    *result = NULL;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *f, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    (void)f;
    *bufs = NULL;
    *n_bufs = 0;
    return 0;
}

/* In a thread: the copy of the state. (The FSM of a benchmark may be torn; a real one would have copied on write.) */
static int fsm_snapshot_async(struct raft_fsm *f, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    (void)f;
    *n_bufs = 1;
    *bufs = raft_malloc(sizeof **bufs);
    (*bufs)[0].len = state_size;
    (*bufs)[0].base = raft_malloc(state_size);
    memcpy(state, &count, 8);
    memcpy((*bufs)[0].base, state, state_size);
    return 0;
}

static int fsm_snapshot_finalize(struct raft_fsm *f, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    (void)f;
    for (unsigned i = 0; i < *n_bufs; i++) {
        raft_free((*bufs)[i].base);
    }
    raft_free(*bufs);
    *bufs = NULL;
    *n_bufs = 0;
    return 0;
}

static int fsm_restore(struct raft_fsm *f, struct raft_buffer *buf)
{
    (void)f;
    raft_free(state);
    state = buf->base;
    state_size = buf->len;
    memcpy(&count, state, 8);
    return 0;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void finish(void)
{
    uint64_t took = uv_hrtime() - began;
    size_t n = n_latencies;
    qsort(latencies, n, sizeof *latencies, by_value);
    printf("loaded %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", n_done,
           took / 1000, n > 0 ? latencies[n / 2] : 0, n > 0 ? latencies[n * 99 / 100] : 0,
           n > 0 ? latencies[n - 1] : 0, n_failed, number);
}

static void call_cb(struct raft_apply *req, int status, void *result);

static bool more(uint64_t now)
{
    return n_failed == 0 && now < deadline && (limit == 0 || number < limit);
}

static void call(struct call *c, uint64_t now)
{
    static struct raft_buffer bufs[1024];
    unsigned n = buffers;
    if (limit != 0 && limit - number < n) {
        n = (unsigned)(limit - number);
    }
    for (unsigned i = 0; i < n; i++) {
        number += 1;
        bufs[i].len = bytes;
        bufs[i].base = raft_malloc(bytes);
        memset(bufs[i].base, 0x5a, bytes);
        memcpy(bufs[i].base, &number, 8);
    }
    c->began = now;
    c->req.data = (void *)(uintptr_t)n;
    if (raft_apply(&raft, &c->req, bufs, n, call_cb) != 0) {
        n_failed += n;
        number -= n;
        for (unsigned i = 0; i < n; i++) {
            raft_free(bufs[i].base);
        }
        free(c);
        outstanding -= 1;
    }
}

static void call_cb(struct raft_apply *req, int status, void *result)
{
    struct call *c = (struct call *)req;
    uint64_t now = uv_hrtime();
    (void)result;
    if (status == 0) {
        n_done += (uintptr_t)req->data;
    } else {
        n_failed += (uintptr_t)req->data;
    }
    if (n_latencies == latencies_size) {
        latencies_size = latencies_size * 2 + 65536;
        latencies = realloc(latencies, latencies_size * sizeof *latencies);
    }
    latencies[n_latencies++] = now - c->began;
    if (more(now)) {
        call(c, now);
    } else {
        free(c);
        outstanding -= 1;
    }
    if (outstanding == 0) {
        finish();
    }
}

static void load(const char *arguments)
{
    unsigned calls;
    double seconds;
    uint64_t entries;
    if (sscanf(arguments, "%u %u %u %lf %" SCNu64, &calls, &buffers, &bytes, &seconds, &entries) != 5) {
        return;
    }
    began = uv_hrtime();
    deadline = began + (uint64_t)(seconds * 1e9);
    limit = entries == 0 ? 0 : number + entries;
    n_done = n_failed = n_latencies = 0;
    outstanding = calls;
    for (unsigned i = 0; i < calls; i++) {
        if (more(began)) {
            call(malloc(sizeof(struct call)), uv_hrtime());
        } else {
            outstanding -= 1;
        }
    }
    if (outstanding == 0) {
        finish();
    }
}

static void status(void)
{
    raft_id id;
    const char *address;
    raft_leader(&raft, &id, &address);
    printf("status %d %llu %llu %llu %" PRIu64 "\n", raft_state(&raft), id, raft_last_index(&raft),
           raft_last_applied(&raft), count);
}

static void watch_cb(uv_timer_t *timer)
{
    uint64_t now = uv_hrtime();
    (void)timer;
    if (n_gaps == gaps_size) {
        gaps_size = gaps_size * 2 + 65536;
        gaps = realloc(gaps, gaps_size * sizeof *gaps);
    }
    gaps[n_gaps++] = now - last_seen > WATCH_MSECS * 1000000 ? now - last_seen - WATCH_MSECS * 1000000 : 0;
    last_seen = now;
}

static void stall(const char *argument)
{
    size_t n = n_gaps;
    qsort(gaps, n, sizeof *gaps, by_value);
    printf("stall %" PRIu64 " %" PRIu64 "\n", n > 0 ? gaps[n - 1] / 1000 : 0, n > 0 ? gaps[n * 999 / 1000] / 1000 : 0);
    n_gaps = 0;
    if (strcmp(argument, "on") == 0) {
        last_seen = uv_hrtime();
        uv_timer_start(&watch, watch_cb, WATCH_MSECS, WATCH_MSECS);
    } else {
        uv_timer_stop(&watch);
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
        uv_close((uv_handle_t *)&watch, NULL);
        raft_close(&raft, raft_closed);
    }
}

static void execute(char *text)
{
    if (strncmp(text, "load ", 5) == 0) {
        load(text + 5);
    } else if (strcmp(text, "status") == 0) {
        status();
    } else if (strncmp(text, "stall ", 6) == 0) {
        stall(text + 6);
    } else if (strcmp(text, "quit") == 0) {
        quit();
    }
}

static void input_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(input_buf + input_len, (unsigned)(sizeof input_buf - input_len));
}

static void input_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    char *end;
    (void)stream;
    (void)buf;
    if (n < 0) {
        quit();
        return;
    }
    input_len += (size_t)n;
    while (!closing && (end = memchr(input_buf, '\n', input_len)) != NULL) {
        *end++ = 0;
        execute(input_buf);
        input_len -= (size_t)(end - input_buf);
        memmove(input_buf, end, input_len);
    }
}

static void set(const char *name, unsigned long value)
{
    if (strcmp(name, "threshold") == 0) {
        raft_set_snapshot_threshold(&raft, (unsigned)value);
    } else if (strcmp(name, "trailing") == 0) {
        raft_set_snapshot_trailing(&raft, (unsigned)value);
    } else if (strcmp(name, "segment") == 0) {
        raft_uv_set_segment_size(&io, value);
    } else if (strcmp(name, "election") == 0) {
        raft_set_election_timeout(&raft, (unsigned)value);
    } else if (strcmp(name, "heartbeat") == 0) {
        raft_set_heartbeat_timeout(&raft, (unsigned)value);
    } else if (strcmp(name, "state") == 0) {
        state_size = value;
    }
}

/* State that does not compress. */
static uint8_t *make_state(void)
{
    uint8_t *made = raft_calloc(1, state_size);
    uint64_t x = 88172645463325252u;
    for (size_t i = 8; i + 8 <= state_size; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(made + i, &x, 8);
    }
    return made;
}

static int bootstrap(const char *dir, char *addresses[], unsigned n)
{
    char path[4096];
    struct stat st;
    struct raft_configuration conf;
    int rv = 0;
    snprintf(path, sizeof path, "%s/metadata1", dir);
    if (stat(path, &st) == 0) {
        return 0;
    }
    raft_configuration_init(&conf);
    for (unsigned i = 0; i < n && rv == 0; i++) {
        rv = raft_configuration_add(&conf, i + 1, addresses[i], RAFT_VOTER);
    }
    if (rv == 0) {
        rv = raft_bootstrap(&raft, &conf);
    }
    raft_configuration_close(&conf);
    return rv;
}

int main(int argc, char *argv[])
{
    char *addresses[64];
    unsigned n = 0, id;
    uint64_t start;
    int rv;
    if (argc < 4) {
        fprintf(stderr, "usage: server DIR ID ADDRESSES [NAME=NUMBER ...]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    id = (unsigned)atoi(argv[2]);
    for (char *item = strtok(argv[3], ","); item != NULL && n < 64; item = strtok(NULL, ",")) {
        addresses[n++] = item;
    }
    fsm.version = 3;
    fsm.apply = fsm_apply;
    fsm.snapshot = fsm_snapshot;
    fsm.snapshot_async = fsm_snapshot_async;
    fsm.snapshot_finalize = fsm_snapshot_finalize;
    fsm.restore = fsm_restore;
    uv_loop_init(&loop);
    if (raft_uv_tcp_init(&transport, &loop) != 0 || raft_uv_init(&io, &loop, argv[1], &transport) != 0) {
        fprintf(stderr, "init: %s\n", io.errmsg);
        return 1;
    }
    io.version = 2; /* its async_work is there, but 0.15 says 1 */
    if (raft_init(&raft, &io, &fsm, id, addresses[id - 1]) != 0) {
        fprintf(stderr, "init: %s %s\n", io.errmsg, raft_errmsg(&raft));
        return 1;
    }
    srandom(id ^ (unsigned)uv_hrtime());
    raft_set_snapshot_threshold(&raft, 1u << 30);
    for (int i = 4; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        *value++ = 0;
        set(argv[i], strtoul(value, NULL, 10));
    }
    state = make_state();
    rv = bootstrap(argv[1], addresses, n);
    start = uv_hrtime();
    if (rv != 0 || raft_start(&raft) != 0) {
        fprintf(stderr, "start: %s %s\n", io.errmsg, raft_errmsg(&raft));
        return 1;
    }
    printf("started %" PRIu64 " %llu\n", (uv_hrtime() - start) / 1000, raft_last_index(&raft));
    uv_timer_init(&loop, &watch);
    uv_pipe_init(&loop, &input, 0);
    uv_pipe_open(&input, 0);
    uv_read_start((uv_stream_t *)&input, input_alloc, input_read);
    uv_run(&loop, UV_RUN_DEFAULT);
    printf("bye\n");
    return 0;
}
