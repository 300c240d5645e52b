// SPDX-License-Identifier: Apache-2.0
//
// One line to fd 2 with one write, without stdio: usable in constructors and destructors.

#ifndef PTRECLAIM_LINE_H
#define PTRECLAIM_LINE_H

#include "linux_mm.h"

#include <stddef.h>
#include <stdint.h>

struct line {
    size_t count;
    char text[384]; // longer lines are cut
};

static inline void line_text(struct line *line, const char *text) {
    while (*text && line->count < sizeof(line->text) - 1) {
        line->text[line->count++] = *text++;
    }
}

static inline void line_number(struct line *line, uint64_t value) {
    char digits[21];
    size_t start = sizeof(digits) - 1;
    digits[start] = '\0';
    do {
        digits[--start] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    line_text(line, digits + start);
}

static inline struct line line_begin(void) {
    struct line line = {0};
    line_text(&line, "ptreclaim[");
    line_number(&line, (uint64_t)ptreclaim_getpid());
    line_text(&line, "]: ");
    return line;
}

static inline void line_end(struct line *line) {
    line->text[line->count++] = '\n';
    (void)ptreclaim_write(2, line->text, line->count);
}

#endif
