// SPDX-License-Identifier: Apache-2.0

#include "options.h"

#include "line.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { CHOICE, NAME, NUMBER };

struct option {
    const char *variable;
    enum kind kind;
    const char *choices; // separated by '|', the value is the index; NUMBER: lowest..highest
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

/// The decimal number at `*text`, which moves behind it; UINT32_MAX stands for whatever is larger.
static uint32_t take_number(const char **text) {
    uint64_t number = 0;
    for (; **text >= '0' && **text <= '9'; ++*text) {
        number = number * 10 + (uint64_t)(**text - '0');
        number = number < UINT32_MAX ? number : UINT32_MAX;
    }
    return (uint32_t)number;
}

/// The number that `value` is, or -1 where it is none or out of `bounds`, as in "1..4096".
static int64_t bounded_number(const char *bounds, const char *value) {
    const uint32_t lowest = take_number(&bounds);
    bounds += strlen("..");
    const uint32_t highest = take_number(&bounds);
    const char *end = value;
    const uint32_t number = take_number(&end);
    const bool is_number = *end == '\0' && end != value;
    return is_number && lowest <= number && number <= highest ? (int64_t)number : -1;
}

/// The index or the number that `value` is, or -1.
static int64_t known_value(const struct option *option, const char *value) {
    return option->kind == NUMBER ? bounded_number(option->choices, value)
                                  : choice_index(option->choices, value);
}

static void read_option(const struct option *option, char *field) {
    const char *value = secure_getenv(option->variable);
    if (option->kind == NAME) {
        const char *name = value && *value ? value : NULL;
        memcpy(field, &name, sizeof(name));
        return;
    }
    uint32_t chosen = option->fallback;
    if (value && *value) {
        const int64_t known = known_value(option, value);
        if (known >= 0) {
            chosen = (uint32_t)known;
        } else {
            struct line line = line_begin();
            line_text(&line, option->variable);
            line_text(&line, "=");
            line_text(&line, value);
            line_text(&line, option->kind == NUMBER ? " is not a number of " : " is none of ");
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

bool ptreclaim_options_want_fence(void) {
    const struct option *mode = &table[0];
    const char *value = secure_getenv(mode->variable);
    switch (value ? known_value(mode, value) : -1) {
    case PTRECLAIM_OPTION_MODE_MADVISE:
    case PTRECLAIM_OPTION_MODE_SCAN:
    case PTRECLAIM_OPTION_MODE_HOOKS_AND_SCAN: return true;
    default: return false;
    }
}
