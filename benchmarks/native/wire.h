/* What the backend says, byte for byte: it writes these texts, and the clients compare what they got with them.

Every answer carries the tag of the request that asked for it, so that an answer which reached another client is found out.
Every event carries its number and the moment it was sent (CLOCK_MONOTONIC, which all processes of a machine share).
The fields have fixed widths and are patched into a copy of the text: formatting would cost more than sending. */

#ifndef WIRE_H
#define WIRE_H

#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TAG_DIGITS 6
#define NUMBER_DIGITS 8
#define TIME_DIGITS 16

/* A request asks in its first message, which every proxy passes on as it is, whatever else it does with the body. */
#define ASK_TAG "bench-tag="
#define ASK_EVENTS "bench-events="
#define ASK_PERIOD "bench-period-us="
#define ASK_STEPS "bench-steps="

#define EVENT_UP_TO_MARK                                                                                                  \
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"bench\","   \
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\""
#define EVENT_MARK " t------ n-------- at----------------"
#define EVENT EVENT_UP_TO_MARK EVENT_MARK "\"},\"finish_reason\":null}]}\n\n"
#define EVENT_LENGTH (sizeof EVENT - 1)
#define MARK_LENGTH (sizeof EVENT_MARK - 1)
#define TAG_AT (sizeof EVENT_UP_TO_MARK - 1 + 2)
#define NUMBER_AT (TAG_AT + TAG_DIGITS + 2)
#define TIME_AT (NUMBER_AT + NUMBER_DIGITS + 3)

#define USAGE                                                                                                             \
    "\"usage\":{\"completion_tokens\":10,\"prompt_tokens\":12,\"total_tokens\":22},"                                      \
    "\"timings\":{\"prompt_n\":12,\"prompt_ms\":5.1,\"prompt_per_second\":2352.9,"                                        \
    "\"predicted_n\":10,\"predicted_ms\":100.0,\"predicted_per_second\":100.0}"

#define STREAM_TAIL                                                                                                       \
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"bench\","   \
    "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]," USAGE "}\n\n"                                  \
    "data: [DONE]\n\n"

#define ANSWER_UP_TO_TAG                                                                                                  \
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"bench\","               \
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"one two three t"
#define ANSWER ANSWER_UP_TO_TAG "------\"},\"finish_reason\":\"stop\"}]," USAGE "}"
#define ANSWER_LENGTH (sizeof ANSWER - 1)
#define ANSWER_TAG_AT (sizeof ANSWER_UP_TO_TAG - 1)

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void put_hex(char *at, uint64_t value, int digits) {
    for (char *p = at + digits; p-- > at; value >>= 4) *p = "0123456789abcdef"[value & 15];
}

/* The hexadecimal number of so many digits, or UINT64_MAX if it is none. */
static inline uint64_t get_hex(const char *at, int digits) {
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return UINT64_MAX;
        value = value << 4 | (uint64_t)digit;
    }
    return value;
}

static inline void write_event(char *at, unsigned tag, unsigned number, uint64_t sent) {
    memcpy(at, EVENT, EVENT_LENGTH);
    put_hex(at + TAG_AT, tag, TAG_DIGITS);
    put_hex(at + NUMBER_AT, number, NUMBER_DIGITS);
    put_hex(at + TIME_AT, sent, TIME_DIGITS);
}

static inline void write_answer(char *at, unsigned tag) {
    memcpy(at, ANSWER, ANSWER_LENGTH);
    put_hex(at + ANSWER_TAG_AT, tag, TAG_DIGITS);
}

/* Run on that processor only; -1: on any. */
static inline void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0) return;
    CPU_SET((size_t)cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

#endif
