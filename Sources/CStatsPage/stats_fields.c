// SPDX-License-Identifier: Apache-2.0

#include "stats_page.h"

static const struct ptreclaim_stats_field ptreclaim_stats_fields[] = {
#define X(field, text) \
    {"refused_" #field, text, offsetof(struct ptreclaim_stats_page, refused_##field), \
     PTRECLAIM_STATS_REFUSAL},
    PTRECLAIM_REFUSALS(X)
#undef X
#define COUNTER(field, meaning, group) \
    {#field, meaning, offsetof(struct ptreclaim_stats_page, field), group},
#define X(field, meaning) COUNTER(field, meaning, PTRECLAIM_STATS_HOOKS)
    PTRECLAIM_HOOK_COUNTERS(X)
#undef X
#define X(field, meaning) COUNTER(field, meaning, PTRECLAIM_STATS_PURGES)
    PTRECLAIM_PURGE_COUNTERS(X)
#undef X
#define X(field, meaning) COUNTER(field, meaning, PTRECLAIM_STATS_PASSES)
    PTRECLAIM_PASS_COUNTERS(X)
#undef X
};

const size_t ptreclaim_stats_field_count =
    sizeof(ptreclaim_stats_fields) / sizeof(ptreclaim_stats_fields[0]);

const struct ptreclaim_stats_field *ptreclaim_stats_field_at(size_t index) {
    return &ptreclaim_stats_fields[index];
}
