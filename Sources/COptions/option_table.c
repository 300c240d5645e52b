// SPDX-License-Identifier: Apache-2.0

#include "option_table.h"

#include "options.h"

static const struct ptreclaim_option ptreclaim_option_table[] = {
#define X(field, variable, kind, choices, fallback, meaning) \
    {variable, choices, meaning, PTRECLAIM_OPTION_##kind, fallback},
    PTRECLAIM_OPTIONS(X)
#undef X
};

const size_t ptreclaim_option_count =
    sizeof(ptreclaim_option_table) / sizeof(ptreclaim_option_table[0]);

const struct ptreclaim_option *ptreclaim_option_at(size_t index) {
    return &ptreclaim_option_table[index];
}
