/* A run in slices: what came in each.

Whoever shares a core with a virtual machine slows it to half for some tens of milliseconds, or some hundreds, again and again; a
figure of a whole second is a mixture of the two speeds, another one each time. Slices are shorter than that. */

#ifndef SLICES_H
#define SLICES_H

#include "answer.h"

enum { SLICE_MS = 50 };

struct mark {
    uint64_t at; /* nanoseconds */
    size_t seen;
};

struct slices {
    uint64_t next;
    struct mark *marks; /* the ends of slices; the first is where it all began */
    size_t count, room;
};

static inline void slices_mark(struct slices *s, uint64_t now, size_t seen) {
    if (s->count == s->room) {
        s->room += 1024;
        if (!(s->marks = realloc(s->marks, s->room * sizeof *s->marks))) die("no memory for %zu slices", s->room);
    }
    s->marks[s->count++] = (struct mark){now, seen};
    s->next = now + SLICE_MS * 1000000u;
}

/* So many were seen up to now. */
static inline void slices_note(struct slices *s, uint64_t now, size_t seen) {
    if (now >= s->next) slices_mark(s, now, seen);
}

/* "slices": [[SECONDS, SEEN, P50 IN MICROSECONDS], ...]. `taken` has a value for each that was seen, in that order, and loses it.
What came behind the last mark is left out. */
static inline void print_slices(const struct slices *s, struct samples *taken) {
    printf("\"slices\": [");
    for (size_t i = 1; i < s->count; i++) {
        struct mark from = s->marks[i - 1], to = s->marks[i];
        size_t seen = to.seen - from.seen;
        uint64_t *values = taken->values + from.seen;
        if (seen) qsort(values, seen, sizeof *values, by_value);
        double p50 = seen ? (double)values[seen / 2] / 1e3 : 0;
        printf("%s[%.6f, %zu, %.1f]", i > 1 ? ", " : "", (double)(to.at - from.at) / 1e9, seen, p50);
    }
    printf("]");
}

#endif
