// SPDX-License-Identifier: Apache-2.0

#include "options.h"

#include "line.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { CHOICE, NAME };

struct option {
    const char *variable;
    enum kind kind;
    const char *choices; // separated by '|'; the value is the index
    uint32_t fallback;
    size_t offset;
};

static const struct option table[] = {
#define X(field, variable, kind, choices, fallback, meaning) \
    {variable, kind, choices, fallback, offsetof(struct ptreclaim_options, field)},
    PTRECLAIM_OPTIONS(X)
#undef X
};

/// The index of `value` among `choices`, or -1.
static int choice_index(const char *choices, const char *value) {
    const size_t count = strlen(value);
    for (int index = 0;; index++) {
        const char *end = strchr(choices, '|');
        const size_t length = end ? (size_t)(end - choices) : strlen(choices);
        if (length == count && memcmp(choices, value, count) == 0) {
            return index;
        }
        if (!end) {
            return -1;
        }
        choices = end + 1;
    }
}

static void read_option(const struct option *option, char *field) {
    const char *value = getenv(option->variable);
    if (option->kind == NAME) {
        const char *name = value && *value ? value : NULL;
        memcpy(field, &name, sizeof(name));
        return;
    }
    uint32_t chosen = option->fallback;
    if (value && *value) {
        int index = choice_index(option->choices, value);
        if (index >= 0) {
            chosen = (uint32_t)index;
        } else {
            struct line line = line_begin();
            line_text(&line, option->variable);
            line_text(&line, "=");
            line_text(&line, value);
            line_text(&line, " is none of ");
            line_text(&line, option->choices);
            line_text(&line, "; the default stays");
            line_end(&line);
        }
    }
    memcpy(field, &chosen, sizeof(chosen));
}

struct ptreclaim_options ptreclaim_options_read(void) {
    struct ptreclaim_options options;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        read_option(&table[i], (char *)&options + table[i].offset);
    }
    return options;
}
