// SPDX-License-Identifier: Apache-2.0

#include "ptreclaim.h"

#include "core.h"

#include <errno.h>

#define EXPORT __attribute__((visibility("default")))

/// The first version of the report; a caller that was compiled against a later one gets its
/// `size` back smaller.
static const uint32_t smallest_report = 192;

EXPORT int ptreclaim(
    void *address, size_t length, unsigned int access, struct ptreclaim_report *report) {
    if ((report && report->size < smallest_report) || access > PTRECLAIM_OWNED) {
        errno = EINVAL;
        return -1;
    }
    struct ptreclaim_report result = {.size = sizeof(result)};
    int saved = errno;
    int error = ptreclaim_core_call((uintptr_t)address, length, access, &result);
    if (error) {
        errno = error;
        return -1;
    }
    errno = saved;
    if (report) {
        uint32_t filled = report->size < result.size ? report->size : result.size;
        result.size = filled;
        __builtin_memcpy(report, &result, filled);
    }
    return 0;
}

/// Where the preload library is in the process, its function of this name comes first.
EXPORT int ptreclaim_advise(void *address, size_t length, unsigned int advice) {
    (void)address, (void)length, (void)advice;
    errno = EOPNOTSUPP;
    return -1;
}

EXPORT const char *ptreclaim_kept_name(unsigned int reason) {
    return ptreclaim_core_kept_name(reason);
}
