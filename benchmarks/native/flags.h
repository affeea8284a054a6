/* Flags with a value: `--port 8080`. */

#ifndef FLAGS_H
#define FLAGS_H

#include "wire.h"

static inline const char *flag(int count, char **words, const char *name) {
    for (int i = 1; i + 1 < count; i++)
        if (!strcmp(words[i], name)) return words[i + 1];
    return NULL;
}

static inline const char *text_flag(int count, char **words, const char *name) {
    const char *value = flag(count, words, name);
    if (!value) die("%s is missing", name);
    return value;
}

static inline double number_flag(int count, char **words, const char *name, double otherwise) {
    const char *value = flag(count, words, name);
    return value ? strtod(value, NULL) : otherwise;
}

#endif
