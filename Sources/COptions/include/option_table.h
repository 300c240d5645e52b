// SPDX-License-Identifier: Apache-2.0
//
// The options of the preload library as data, for what writes them down: Swift cannot walk an
// X-macro. options.h, the one place where they are said, is a link to the library's own.

#ifndef PTRECLAIM_OPTION_TABLE_H
#define PTRECLAIM_OPTION_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum ptreclaim_option_kind {
    PTRECLAIM_OPTION_CHOICE, // of `choices`, separated by '|'; `fallback` is an index
    PTRECLAIM_OPTION_NAME,   // any text; no fallback
    PTRECLAIM_OPTION_NUMBER, // `choices` is "lowest..highest"
};

struct ptreclaim_option {
    const char *variable;
    const char *choices;
    const char *meaning;
    uint32_t kind; // enum ptreclaim_option_kind
    uint32_t fallback;
};

extern const size_t ptreclaim_option_count;
/// `index` is below `ptreclaim_option_count`.
const struct ptreclaim_option *ptreclaim_option_at(size_t index);

#endif
