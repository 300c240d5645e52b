// SPDX-License-Identifier: Apache-2.0

#include "trace_file.h"

const char *ptreclaim_trace_kind_name(uint32_t kind) {
    switch (kind) {
#define X(name, number, meaning) \
    case number: \
        return #name;
        PTRECLAIM_TRACE_KINDS(X)
#undef X
    default:
        return NULL;
    }
}
