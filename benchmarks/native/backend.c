/* A backend that is not the bottleneck: it answers like llama-server, within microseconds, and streams as the request says.

    llama-server --port 8001 [--host 127.0.0.1] [--bench-cpu 1] [any other flag, which means nothing to it]

GET /health and /v1/models are answered, and /bench tells how many connections were accepted. A POST gets one JSON answer or,
where its first message says `bench-events=`, so many server-sent events, each in a chunk and a write() of its own,
`bench-period-us=` apart (0: as fast as they are taken). The first comes at once. With `bench-steps=1` all streams of one
period have their further events at the same moments, as a server has a token for each of its streams in every step.
One thread, epoll; a heap of the streams by when their next event is due, and one timer for the first of them. */

#define _GNU_SOURCE
#include "flags.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { IN_ROOM = 16384, OUT_ROOM = 1024, EVENTS_A_TURN = 64, BATCH = 256, MAX_LIFE_SECONDS = 3600 };

#define CHUNK_HEAD "--\r\n"
#define CHUNK_LENGTH (sizeof CHUNK_HEAD - 1 + EVENT_LENGTH + 2)
_Static_assert(EVENT_LENGTH >= 0x10 && EVENT_LENGTH <= 0xff, "the length of an event has two digits");

#define STREAM_HEAD                                                                                          \
    "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"     \
    "Transfer-Encoding: chunked\r\n\r\n"

struct connection {
    int fd;
    bool has_head, streams, is_queued; /* queued: the heap holds it, and frees it if it is gone by then */
    size_t have, body_left;            /* bytes in `in`: the head, and what fits of the body; bytes yet to come */
    unsigned tag, events, number;
    uint64_t period, due;
    size_t out_from, out_to; /* what the socket has not taken yet */
    char in[IN_ROOM + 1], out[OUT_ROOM];
};

static int loop, timer;
static struct connection **heap;
static size_t heap_size, heap_room, accepted;
static char rest[1 << 18]; /* of bodies: read, and not looked at */

/* ---- the heap of paced streams, the next due on top */

static void heap_push(struct connection *c) {
    if (heap_size == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        if (!(heap = realloc(heap, heap_room * sizeof *heap))) die("no memory for %zu streams", heap_room);
    }
    size_t i = heap_size++;
    for (size_t up; i && heap[up = (i - 1) / 2]->due > c->due; i = up) heap[i] = heap[up];
    heap[i] = c;
    c->is_queued = true;
}

static struct connection *heap_pop(void) {
    struct connection *top = heap[0], *last = heap[--heap_size];
    size_t i = 0;
    for (size_t down; (down = 2 * i + 1) < heap_size; i = down) {
        if (down + 1 < heap_size && heap[down + 1]->due < heap[down]->due) down++;
        if (heap[down]->due >= last->due) break;
        heap[i] = heap[down];
    }
    heap[i] = last;
    top->is_queued = false;
    return top;
}

/* ---- what is sent; each of these is false when the connection is gone */

static void watch(struct connection *c, bool for_room) {
    struct epoll_event event = {.events = EPOLLIN | (for_room ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &event);
}

/* What the socket does not take is kept until it has room. */
static bool say(struct connection *c, const char *text, size_t length) {
    ssize_t sent = send(c->fd, text, length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return false;
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    if (taken == length) return true;
    memcpy(c->out, text + taken, length - taken);
    c->out_from = 0;
    c->out_to = length - taken;
    watch(c, true);
    return true;
}

static bool reply(struct connection *c, const char *status, const char *body, size_t length) {
    char text[OUT_ROOM];
    int head = snprintf(text, sizeof text - length,
                        "HTTP/1.1 %s\r\nServer: bench\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, length);
    memcpy(text + head, body, length);
    return say(c, text, (size_t)head + length);
}

static bool send_event(struct connection *c) {
    char text[CHUNK_LENGTH + 1] = CHUNK_HEAD;
    put_hex(text, EVENT_LENGTH, 2);
    write_event(text + 4, c->tag, c->number++, now_ns());
    memcpy(text + 4 + EVENT_LENGTH, "\r\n", 2);
    return say(c, text, CHUNK_LENGTH);
}

static bool send_tail(struct connection *c) {
    char text[OUT_ROOM];
    int length = snprintf(text, sizeof text, "%zx\r\n%s\r\n0\r\n\r\n", sizeof STREAM_TAIL - 1, STREAM_TAIL);
    c->streams = false;
    return say(c, text, (size_t)length);
}

/* Send what is due. A stream without pace gives way to others after some events, and goes on when the socket next has room. */
static bool go_on(struct connection *c) {
    uint64_t now = now_ns();
    for (int turn = 0; !c->out_to; turn++) {
        if (c->number == c->events) return send_tail(c);
        if (c->period ? c->due > now : turn == EVENTS_A_TURN) break;
        if (!send_event(c)) return false;
        c->due += c->period;
    }
    if (!c->period && !c->out_to) watch(c, true);
    return true;
}

static void hang_up(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    if (!c->is_queued) free(c);
}

static void serve_due_streams(void) {
    uint64_t now = now_ns();
    while (heap_size && heap[0]->due <= now) {
        struct connection *c = heap_pop();
        if (c->fd < 0) {
            free(c);
        } else if (c->out_to) { /* its reader is slow: look again after a period */
            c->due = now + c->period;
            heap_push(c);
        } else if (!go_on(c)) {
            hang_up(c);
        } else if (c->streams) {
            heap_push(c);
        }
    }
    struct itimerspec when = {0};
    if (heap_size) {
        when.it_value.tv_sec = (time_t)(heap[0]->due / 1000000000u);
        when.it_value.tv_nsec = (long)(heap[0]->due % 1000000000u);
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* ---- what is asked; each of these is false when the connection is to be closed */

static const char *asked(struct connection *c, const char *name) {
    const char *found = memmem(c->in, c->have, name, strlen(name));
    return found ? found + strlen(name) : NULL;
}

static bool answer_post(struct connection *c) {
    const char *tag = asked(c, ASK_TAG), *events = asked(c, ASK_EVENTS), *period = asked(c, ASK_PERIOD),
               *steps = asked(c, ASK_STEPS);
    c->tag = tag ? (unsigned)get_hex(tag, TAG_DIGITS) : 0;
    if (!events) {
        char text[ANSWER_LENGTH];
        write_answer(text, c->tag);
        return reply(c, "200 OK", text, sizeof text);
    }
    c->streams = true;
    c->number = 0;
    c->events = (unsigned)strtoul(events, NULL, 10);
    c->period = period ? strtoull(period, NULL, 10) * 1000u : 0;
    c->due = now_ns();
    if (!say(c, STREAM_HEAD, sizeof STREAM_HEAD - 1) || !go_on(c)) return false;
    if (steps && c->period) c->due -= c->due % c->period;
    if (c->streams && c->period) heap_push(c);
    return true;
}

static bool tell_accepted(struct connection *c) {
    char text[64];
    return reply(c, "200 OK", text, (size_t)snprintf(text, sizeof text, "{\"accepted\":%zu}", accepted));
}

static bool answer(struct connection *c) {
    static const char health[] = "{\"status\":\"ok\"}", unknown[] = "{\"error\":{\"code\":404,\"message\":\"File Not Found\"}}";
    static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1760000000}]}";
    bool goes_on = !strncmp(c->in, "POST ", 5)              ? answer_post(c)
                   : !strncmp(c->in, "GET /health ", 12)    ? reply(c, "200 OK", health, sizeof health - 1)
                   : !strncmp(c->in, "GET /v1/models ", 15) ? reply(c, "200 OK", models, sizeof models - 1)
                   : !strncmp(c->in, "GET /bench ", 11)     ? tell_accepted(c)
                                                            : reply(c, "404 Not Found", unknown, sizeof unknown - 1);
    c->have = 0;
    c->has_head = false;
    return goes_on;
}

/* Proxies may not send requests ahead, nor bodies without a length: none of ours does, and it would be told. */
static bool take_head(struct connection *c) {
    c->in[c->have] = 0;
    char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!end) return c->have < IN_ROOM;
    size_t of_body = c->have - (size_t)(end + 4 - c->in);
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    char *chunked = strcasestr(c->in, "\r\ntransfer-encoding:");
    size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (body < of_body || (chunked && chunked < end)) {
        fprintf(stderr, "backend: a request sent ahead, or a body without a length\n");
        return false;
    }
    c->has_head = true;
    c->body_left = body - of_body;
    return true;
}

static bool read_request(struct connection *c) {
    for (;;) {
        bool is_kept = c->have < IN_ROOM;
        size_t room = is_kept ? IN_ROOM - c->have : sizeof rest;
        ssize_t got = recv(c->fd, is_kept ? c->in + c->have : rest, room, 0);
        if (got <= 0) return got < 0 && errno == EAGAIN;
        if (c->streams || (c->has_head && (size_t)got > c->body_left)) return false;
        if (is_kept) c->have += (size_t)got;
        if (c->has_head) {
            c->body_left -= (size_t)got;
        } else if (!take_head(c)) {
            return false;
        }
        if (c->has_head && !c->body_left) return answer(c);
        if ((size_t)got < room) return true; /* that was all that is there now */
    }
}

static bool flush(struct connection *c) {
    ssize_t sent = send(c->fd, c->out + c->out_from, c->out_to - c->out_from, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    if ((c->out_from += (size_t)sent) < c->out_to) return true;
    c->out_from = c->out_to = 0;
    watch(c, false);
    return !c->streams || c->period || go_on(c);
}

static bool serve(struct connection *c, uint32_t events) {
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !read_request(c)) return false;
    if (!(events & EPOLLOUT)) return true;
    if (c->out_to) return flush(c);
    watch(c, false);
    return !c->streams || c->period || go_on(c);
}

/* ---- the process */

static void welcome(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("no memory for a connection");
        c->fd = fd;
        accepted++;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(const char *host, int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("%s is not an IPv4 address", host);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) die("%s:%d: %s", host, port, strerror(errno));
    return fd;
}

int main(int count, char **words) {
    alarm(MAX_LIFE_SECONDS); /* whoever forgets us */
    prctl(PR_SET_TIMERSLACK, 1);
    pin((int)number_flag(count, words, "--bench-cpu", -1));
    const char *host = flag(count, words, "--host");
    int listener = listen_on(host ? host : "127.0.0.1", (int)number_flag(count, words, "--port", 8080));
    loop = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener}, events[BATCH];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &timer;
    epoll_ctl(loop, EPOLL_CTL_ADD, timer, &event);
    for (;;) {
        int ready = epoll_wait(loop, events, BATCH, -1);
        for (int i = 0; i < ready; i++) {
            void *who = events[i].data.ptr;
            if (who == &listener) welcome(listener);
            else if (who != &timer && !serve(who, events[i].events)) hang_up(who);
        }
        serve_due_streams(); /* after the others: it may free a connection that they mean */
    }
}
