/* Plain requests: each of N connections sends one, reads the whole answer, compares it byte for byte, and sends the next.

    requests --port 8080 --request FILE [--connections 64] [--seconds 2] [--count 0] [--exact 1] [--cpu 1]

--count ends after so many answers, --exact 0 looks for the tag only, for a proxy that writes answers anew. Prints JSON: how many
were answered, in how many seconds, microseconds from the first byte sent to the last received, both in slices, and what went
wrong. */

#define _GNU_SOURCE
#include "answer.h"
#include "flags.h"
#include "slices.h"

#include <sys/epoll.h>

enum { ROOM = 65536, BATCH = 256 };

struct connection {
    int fd;
    unsigned tag;
    size_t sent, have;
    uint64_t began;
    bool waits_for_room, has_served; /* served: this connection has brought an answer before */
    struct answer answer;
    char body[4096];
};

static struct request request;
static struct samples taken;
static struct slices slices;
static int loop, port, is_exact;
static size_t answered, failed, reconnected, wanted;
static char first_failure[MESSAGE_ROOM];

static void watch(struct connection *c, int how) {
    struct epoll_event event = {.events = EPOLLIN | (c->waits_for_room ? EPOLLOUT : 0u), .data.ptr = c};
    if (epoll_ctl(loop, how, c->fd, &event)) die("epoll: %s", strerror(errno));
}

static void open_connection(struct connection *c) {
    c->fd = connect_to(port);
    c->waits_for_room = c->has_served = false;
    watch(c, EPOLL_CTL_ADD);
}

static bool send_more(struct connection *c) {
    while (c->sent < request.length) {
        ssize_t sent = send(c->fd, tagged(&request, c->tag) + c->sent, request.length - c->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return fail(&c->answer, "while sending: %s", strerror(errno));
        bool is_full = sent < 0;
        if (is_full != c->waits_for_room) {
            c->waits_for_room = is_full;
            watch(c, EPOLL_CTL_MOD);
        }
        if (is_full) return true;
        c->sent += (size_t)sent;
    }
    if (c->waits_for_room) {
        c->waits_for_room = false;
        watch(c, EPOLL_CTL_MOD);
    }
    return true;
}

static bool ask(struct connection *c) {
    answer_begin(&c->answer);
    c->sent = c->have = 0;
    c->began = now_ns();
    return send_more(c);
}

static bool keep(void *whose, const char *text, size_t length) {
    struct connection *c = whose;
    if (c->have + length > sizeof c->body) return fail(&c->answer, "the answer is longer than %zu bytes", sizeof c->body);
    memcpy(c->body + c->have, text, length);
    c->have += length;
    return true;
}

static bool is_right(struct connection *c) {
    char expected[ANSWER_LENGTH + 1];
    write_answer(expected, c->tag);
    if (is_exact && (c->have != ANSWER_LENGTH || memcmp(c->body, expected, ANSWER_LENGTH)))
        return fail(&c->answer, "connection %u got another answer than it should: %.100s", c->tag, c->body);
    const char *mark = expected + ANSWER_TAG_AT - 1;
    if (!memmem(c->body, c->have, mark, TAG_DIGITS + 1)) return fail(&c->answer, "connection %u got no answer with its tag", c->tag);
    return true;
}

static bool read_more(struct connection *c) {
    static char text[ROOM];
    ssize_t got = recv(c->fd, text, sizeof text, 0);
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) return fail(&c->answer, "the connection was closed before the answer was complete");
    if (!answer_feed(&c->answer, text, (size_t)got, keep, c)) return false;
    if (c->answer.reading != DONE) return true;
    if (!is_right(c)) return false;
    uint64_t now = now_ns();
    note(&taken, now - c->began);
    slices_note(&slices, now, ++answered);
    c->has_served = true;
    return ask(c);
}

/* A close between two answers is the proxy's right; anything else is a failure. Either way the next request goes on. */
static void start_anew(struct connection *c) {
    if (c->has_served && c->answer.reading == IN_HEAD && !c->answer.head_length) {
        reconnected++;
    } else if (!failed++) {
        memcpy(first_failure, c->answer.failure, sizeof first_failure);
    }
    close(c->fd);
    open_connection(c);
    if (!ask(c)) die("a new connection failed at once: %s", c->answer.failure);
}

static bool is_over(uint64_t ends) {
    return wanted ? answered + failed >= wanted || now_ns() > ends : now_ns() > ends;
}

int main(int count, char **words) {
    size_t connections = (size_t)number_flag(count, words, "--connections", 1);
    double seconds = number_flag(count, words, "--seconds", 2);
    wanted = (size_t)number_flag(count, words, "--count", 0);
    port = (int)number_flag(count, words, "--port", 0);
    is_exact = (int)number_flag(count, words, "--exact", 1);
    pin((int)number_flag(count, words, "--cpu", -1));
    request = read_request_file(text_flag(count, words, "--request"));
    loop = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc(connections, sizeof *all);
    slices_mark(&slices, now_ns(), 0);
    uint64_t began = now_ns(), ends = began + (uint64_t)(seconds * 1e9);
    for (size_t i = 0; i < connections; i++) {
        all[i].tag = (unsigned)i + 1;
        open_connection(&all[i]);
        if (!ask(&all[i])) start_anew(&all[i]);
    }
    struct epoll_event events[BATCH];
    while (!is_over(ends) && failed < 1000) {
        int ready = epoll_wait(loop, events, BATCH, 100);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            bool goes_on = !(events[i].events & EPOLLOUT) || send_more(c);
            if (goes_on && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) goes_on = read_more(c);
            if (!goes_on) start_anew(c);
        }
    }
    printf("{\"answered\": %zu, \"failed\": %zu, \"reconnected\": %zu, \"seconds\": %.4f, ", answered, failed, reconnected,
           (double)(now_ns() - began) / 1e9);
    print_text("failure", first_failure);
    printf(", ");
    print_slices(&slices, &taken);
    printf(", ");
    print_samples("latency", &taken);
    printf("}\n");
}
