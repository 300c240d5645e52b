// SPDX-License-Identifier: Apache-2.0

#include "stats_page.h"

static const struct ptreclaim_stats_field ptreclaim_stats_fields[] = {
#define X(field, text) \
    {"refused_" #field, text, offsetof(struct ptreclaim_stats_page, refused_##field), 1},
    PTRECLAIM_REFUSALS(X)
#undef X
#define X(field, text) {#field, text, offsetof(struct ptreclaim_stats_page, field), 0},
    PTRECLAIM_COUNTERS(X)
#undef X
};

const size_t ptreclaim_stats_field_count =
    sizeof(ptreclaim_stats_fields) / sizeof(ptreclaim_stats_fields[0]);

const struct ptreclaim_stats_field *ptreclaim_stats_field_at(size_t index) {
    return &ptreclaim_stats_fields[index];
}
