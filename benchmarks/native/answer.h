/* A client's half of HTTP: connect, send a request over and over, and read an answer piece by piece as it comes. */

#ifndef ANSWER_H
#define ANSWER_H

#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_ROOM = 16384, MESSAGE_ROOM = 256 };

/* ---- the request: bytes from a file, head and body; each connection patches its own tag in */

struct request {
    char *text;
    size_t length;
    char *tag; /* where in `text`; NULL if it carries none */
};

static inline struct request read_request_file(const char *path) {
    struct request request = {0};
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die("%s: %s", path, strerror(errno));
    request.length = (size_t)ftell(file);
    rewind(file);
    request.text = malloc(request.length + 1);
    if (!request.text || fread(request.text, 1, request.length, file) != request.length) die("%s cannot be read", path);
    fclose(file);
    char *found = memmem(request.text, request.length, ASK_TAG, sizeof ASK_TAG - 1);
    request.tag = found ? found + sizeof ASK_TAG - 1 : NULL;
    return request;
}

static inline const char *tagged(const struct request *request, unsigned tag) {
    if (request->tag) put_hex(request->tag, tag, TAG_DIGITS);
    return request->text;
}

static inline int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* ---- the answer */

enum reading { IN_HEAD, IN_BODY, IN_CHUNK_SIZE, IN_CHUNK, AFTER_CHUNK, IN_TRAILER, DONE };

struct answer {
    enum reading reading;
    int status;
    size_t head_length, left; /* of the body, or of the chunk and what ends it */
    char head[HEAD_ROOM + 1]; /* or the line of a chunk's size */
    char failure[MESSAGE_ROOM];
};

/* Told the bytes of the body as they come; false, with the failure set, when they are wrong. */
typedef bool (*body_reader)(void *whose, const char *text, size_t length);

static inline void answer_begin(struct answer *a) {
    a->reading = IN_HEAD;
    a->status = 0;
    a->head_length = 0;
    a->failure[0] = 0;
}

__attribute__((format(printf, 2, 3))) static inline bool fail(struct answer *a, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(a->failure, sizeof a->failure, format, arguments);
    va_end(arguments);
    return false;
}

/* Copy up to and with `end` into `head`; gives how much was taken, and whether `end` is there. */
static inline size_t take_until(struct answer *a, const char *text, size_t length, const char *end, bool *found) {
    size_t ends = strlen(end), taken = 0;
    *found = false;
    while (taken < length && a->head_length < HEAD_ROOM && !*found) {
        a->head[a->head_length++] = text[taken++];
        *found = a->head_length >= ends && !memcmp(a->head + a->head_length - ends, end, ends);
    }
    a->head[a->head_length] = 0;
    return taken;
}

static inline bool understand_head(struct answer *a) {
    if (sscanf(a->head, "HTTP/1.%*c %d ", &a->status) != 1) return fail(a, "no HTTP answer: %.60s", a->head);
    char *length = strcasestr(a->head, "\r\ncontent-length:"), *framing = strcasestr(a->head, "\r\ntransfer-encoding:");
    if (a->status != 200) return fail(a, "status %d", a->status);
    if (!length && !framing) return fail(a, "the answer has neither a length nor chunks");
    a->left = length ? strtoul(length + 17, NULL, 10) : 0;
    a->reading = framing ? IN_CHUNK_SIZE : a->left ? IN_BODY : DONE;
    a->head_length = 0;
    return true;
}

static inline bool understand_chunk_size(struct answer *a) {
    char *end;
    a->left = strtoul(a->head, &end, 16);
    if (end == a->head || (*end != '\r' && *end != ';')) return fail(a, "not the size of a chunk: %.20s", a->head);
    a->reading = a->left ? IN_CHUNK : IN_TRAILER;
    a->head_length = 0;
    return true;
}

/* One step through the bytes at hand; gives how many it took. */
static inline size_t answer_step(struct answer *a, const char *text, size_t length, body_reader reader, void *whose, bool *is_right) {
    bool found;
    size_t taken = length < a->left ? length : a->left;
    switch (a->reading) {
    case IN_HEAD:
        taken = take_until(a, text, length, "\r\n\r\n", &found);
        *is_right = found ? understand_head(a) : a->head_length < HEAD_ROOM || fail(a, "the head has no end");
        return taken;
    case IN_CHUNK_SIZE:
        taken = take_until(a, text, length, "\r\n", &found);
        *is_right = found ? understand_chunk_size(a) : a->head_length < 100 || fail(a, "the size of a chunk has no end");
        return taken;
    case IN_BODY:
    case IN_CHUNK:
        *is_right = reader(whose, text, taken);
        if (!(a->left -= taken)) a->reading = a->reading == IN_BODY ? DONE : AFTER_CHUNK;
        return taken;
    case AFTER_CHUNK:
    case IN_TRAILER:
        taken = take_until(a, text, length, "\r\n", &found);
        if (!found) return taken;
        *is_right = a->head_length == 2 || fail(a, "a chunk is longer than it says, or there is a trailer");
        a->head_length = 0;
        a->reading = a->reading == IN_TRAILER ? DONE : IN_CHUNK_SIZE;
        return taken;
    case DONE:
        break;
    }
    *is_right = fail(a, "%zu bytes more than the answer has", length);
    return length;
}

static inline bool answer_feed(struct answer *a, const char *text, size_t length, body_reader reader, void *whose) {
    bool is_right = true;
    for (size_t at = 0; at < length && is_right;) at += answer_step(a, text + at, length - at, reader, whose, &is_right);
    return is_right;
}

/* ---- figures */

struct samples {
    uint64_t *values; /* nanoseconds */
    size_t count, room;
};

static inline void note(struct samples *s, uint64_t value) {
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 65536;
        if (!(s->values = realloc(s->values, s->room * sizeof *s->values))) die("no memory for %zu figures", s->room);
    }
    s->values[s->count++] = value;
}

static inline int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* "NAME": {"count": ..., "p50": ..., "p99": ..., "max": ...} in microseconds; null where there is no sample. */
static inline void print_samples(const char *name, struct samples *s) {
    if (!s->count) {
        printf("\"%s\": null", name);
        return;
    }
    qsort(s->values, s->count, sizeof *s->values, by_value);
    printf("\"%s\": {\"count\": %zu, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name, s->count, (double)s->values[s->count / 2] / 1e3,
           (double)s->values[s->count * 99 / 100] / 1e3, (double)s->values[s->count - 1] / 1e3);
}

static inline void print_text(const char *name, const char *text) {
    printf("\"%s\": \"", name);
    for (; *text; text++) (*text < ' ' || *text == '"' || *text == '\\') ? printf("\\u%04x", (unsigned char)*text) : putchar(*text);
    printf("\"");
}

#endif
