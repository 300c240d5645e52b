// SPDX-License-Identifier: Apache-2.0
//
// What an application says of a range of its memory; see ptreclaim.h.

#include "layout.h"
#include "ptreclaim.h"
#include "reclaimer.h"

#include <errno.h>

#define EXPORT __attribute__((visibility("default")))

static int fail(int error) {
    errno = error;
    return -1;
}

EXPORT int ptreclaim_advise(void *address, size_t length, unsigned int advice) {
    const uintptr_t start = (uintptr_t)address, limit = (uintptr_t)1 << 47;
    const uintptr_t span_mask = (2 << 20) - 1;
    if ((start & 4095) || start > limit || length > limit - start) {
        return fail(EINVAL);
    }
    const uintptr_t end = start + length;
    // What is left alone is rounded outward, everything else inward.
    const uintptr_t first = (start + span_mask) & ~span_mask, last = end & ~span_mask;
    const bool has_spans = first < last;
    bool is_remembered = true;
    if (!ptreclaim_reclaimer_is_enabled()) {
        return fail(EOPNOTSUPP);
    }
    switch (advice) {
    case PTRECLAIM_ON:
        if (has_spans) {
            is_remembered =
                ptreclaim_layout_mark(first, last, PTRECLAIM_MARK_ON, PTRECLAIM_MARK_OFF);
            // It may have been purged while it was not served.
            ptreclaim_reclaimer_look_at(first, last);
        }
        break;
    case PTRECLAIM_OFF:
        if (length > 0) {
            is_remembered = ptreclaim_layout_mark(
                start & ~span_mask, (end + span_mask) & ~span_mask, PTRECLAIM_MARK_OFF,
                PTRECLAIM_MARK_ON);
        }
        // What is being freed now was not marked before.
        ptreclaim_layout_settle();
        break;
    case PTRECLAIM_NOW: {
        const int error = has_spans ? ptreclaim_reclaimer_now(first, last) : 0;
        return error ? fail(error) : 0;
    }
    default: return fail(EINVAL);
    }
    return is_remembered ? 0 : fail(ENOMEM);
}
