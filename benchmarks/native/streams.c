/* Streams: N of them; every event is compared byte for byte, and timed from its write() to here.

    streams --port 8080 --request FILE --events 300 [--streams 100] [--period-us 10000] [--ramp 100]
            [--seconds 30] [--whole 1] [--exact 1] [--cpu 1]

They begin all at once. With --ramp they begin over so many periods, at moments that spread their events evenly: as from servers
that know nothing of each other, hardly any two come together.

--seconds is a bound: a stream that has not ended by then is unfinished, which --whole 0 forgives. --exact 0 looks for the marks
of the events only, for a proxy that writes them anew. Prints JSON: streams that were whole, events, seconds, microseconds from
each event's sending to its coming and from each request to its first event, and what went wrong. */

#define _GNU_SOURCE
#include "answer.h"
#include "flags.h"

#include <sys/epoll.h>
#include <sys/prctl.h>

enum { ROOM = 1 << 18, BATCH = 256, LINE_ROOM = 4096, BEGUN_A_TURN = 8 };

struct stream {
    int fd; /* -1: not begun, or over */
    unsigned tag, number;
    uint64_t began;
    size_t have; /* of the event, the line or the tail that is being read */
    bool is_last_seen;
    struct answer answer;
    char text[LINE_ROOM];
};

static struct request request;
static struct samples delays, first_events;
static int loop, port, is_exact;
static unsigned events_each;
static size_t open_streams, whole, failed;
static uint64_t arrived; /* when the bytes at hand were received */
static char first_failure[MESSAGE_ROOM];
static const char tail[] = STREAM_TAIL;

static void end(struct stream *s, bool is_whole) {
    if (is_whole) {
        whole++;
    } else if (!failed++) {
        snprintf(first_failure, sizeof first_failure, "stream %u: %.200s", s->tag, s->answer.failure);
    }
    close(s->fd);
    s->fd = -1;
    open_streams--;
}

static void begin(struct stream *s) {
    answer_begin(&s->answer);
    s->fd = connect_to(port);
    s->began = now_ns();
    open_streams++;
    if (send(s->fd, tagged(&request, s->tag), request.length, MSG_NOSIGNAL) != (ssize_t)request.length) {
        fail(&s->answer, "the request was not taken at once");
        end(s, false);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(loop, EPOLL_CTL_ADD, s->fd, &event);
}

static bool count_event(struct stream *s, uint64_t sent) {
    if (sent < s->began || sent > arrived) return fail(&s->answer, "event %u was sent at no possible time", s->number);
    note(&delays, arrived - sent);
    if (!s->number++) note(&first_events, arrived - s->began);
    return true;
}

/* The event in `text` is the one that was sent, byte for byte. */
static bool check_event(struct stream *s) {
    char expected[EVENT_LENGTH];
    uint64_t sent = get_hex(s->text + TIME_AT, TIME_DIGITS);
    write_event(expected, s->tag, s->number, sent);
    for (size_t i = 0; i < EVENT_LENGTH; i++)
        if (expected[i] != s->text[i]) return fail(&s->answer, "event %u differs from what was sent at byte %zu", s->number, i);
    return count_event(s, sent);
}

static bool read_exactly(void *whose, const char *text, size_t length) {
    struct stream *s = whose;
    while (length) {
        bool is_tail = s->number == events_each;
        size_t wanted = is_tail ? sizeof tail - 1 : EVENT_LENGTH, taken = wanted - s->have < length ? wanted - s->have : length;
        if (s->is_last_seen) return fail(&s->answer, "%zu bytes after the last event", length);
        memcpy(s->text + s->have, text, taken);
        s->have += taken;
        text += taken;
        length -= taken;
        if (s->have < wanted) return true;
        s->have = 0;
        if (!is_tail && !check_event(s)) return false;
        if (is_tail && memcmp(s->text, tail, wanted)) return fail(&s->answer, "the last events differ from what was sent");
        s->is_last_seen = is_tail;
    }
    return true;
}

/* A line may say anything; a mark in it must be the next one of this stream. */
static bool check_line(struct stream *s) {
    char expected[EVENT_LENGTH];
    const char *mark = memmem(s->text, s->have, " t", 2);
    if (memmem(s->text, s->have, "[DONE]", 6)) s->is_last_seen = s->number == events_each;
    while (mark && mark + MARK_LENGTH <= s->text + s->have && memcmp(mark + 2 + TAG_DIGITS, " n", 2))
        mark = memmem(mark + 2, (size_t)(s->text + s->have - mark - 2), " t", 2);
    if (!mark || mark + MARK_LENGTH > s->text + s->have) return true;
    uint64_t sent = get_hex(mark + MARK_LENGTH - TIME_DIGITS, TIME_DIGITS);
    write_event(expected, s->tag, s->number, sent);
    if (memcmp(mark, expected + TAG_AT - 2, MARK_LENGTH)) return fail(&s->answer, "event %u is not the one that was sent", s->number);
    return count_event(s, sent);
}

static bool read_lines(void *whose, const char *text, size_t length) {
    struct stream *s = whose;
    for (size_t i = 0; i < length; i++) {
        if (s->have == sizeof s->text) return fail(&s->answer, "a line of more than %d bytes", LINE_ROOM);
        s->text[s->have++] = text[i];
        if (text[i] != '\n') continue;
        if (!check_line(s)) return false;
        s->have = 0;
    }
    return true;
}

static void read_more(struct stream *s) {
    static char text[ROOM];
    ssize_t got = recv(s->fd, text, sizeof text, 0);
    if (got < 0 && errno == EAGAIN) return;
    arrived = now_ns();
    bool is_right = got > 0 ? answer_feed(&s->answer, text, (size_t)got, is_exact ? read_exactly : read_lines, s)
                            : fail(&s->answer, "was cut off after %u events", s->number);
    if (is_right && s->answer.reading == DONE && !s->is_last_seen)
        is_right = fail(&s->answer, "ended as if whole after %u of %u events", s->number, events_each);
    if (!is_right || s->answer.reading == DONE) end(s, is_right);
}

/* When, in nanoseconds from the first, stream *i* of so many begins. */
static uint64_t start_of(size_t i, size_t streams, uint64_t period, uint64_t ramp) {
    return ramp ? i * ramp / streams * period + i * period / streams : 0;
}

static int wait_until(struct epoll_event *events, uint64_t when) {
    uint64_t now = now_ns(), left = when > now ? when - now : 0;
    struct timespec timeout = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    return epoll_pwait2(loop, events, BATCH, &timeout, NULL);
}

int main(int count, char **words) {
    size_t streams = (size_t)number_flag(count, words, "--streams", 1), begun = 0;
    double seconds = number_flag(count, words, "--seconds", 30);
    uint64_t period = (uint64_t)number_flag(count, words, "--period-us", 0) * 1000u, ramp = (uint64_t)number_flag(count, words, "--ramp", 0);
    bool must_end = number_flag(count, words, "--whole", 1) > 0;
    port = (int)number_flag(count, words, "--port", 0);
    events_each = (unsigned)number_flag(count, words, "--events", 0);
    is_exact = (int)number_flag(count, words, "--exact", 1);
    pin((int)number_flag(count, words, "--cpu", -1));
    prctl(PR_SET_TIMERSLACK, 1);
    request = read_request_file(text_flag(count, words, "--request"));
    loop = epoll_create1(EPOLL_CLOEXEC);
    struct stream *all = calloc(streams, sizeof *all);
    struct epoll_event events[BATCH];
    uint64_t began = now_ns(), ends = began + (uint64_t)(seconds * 1e9), next = began;
    while ((begun < streams || open_streams) && now_ns() < ends) {
        for (int turn = 0; turn < BEGUN_A_TURN && begun < streams && now_ns() >= next; turn++) {
            all[begun].tag = (unsigned)begun + 1;
            begin(&all[begun++]);
            next = begun < streams ? began + start_of(begun, streams, period, ramp) : ends;
        }
        int ready = wait_until(events, next);
        for (int i = 0; i < ready; i++) read_more(events[i].data.ptr);
    }
    size_t unfinished = must_end ? streams - whole - failed : 0;
    printf("{\"whole\": %zu, \"failed\": %zu, \"unfinished\": %zu, \"events\": %zu, \"seconds\": %.4f, ", whole, failed, unfinished,
           delays.count, (double)(now_ns() - began) / 1e9);
    print_text("failure", first_failure);
    printf(", ");
    print_samples("delay", &delays);
    printf(", ");
    print_samples("first_event", &first_events);
    printf("}\n");
}
