// SPDX-License-Identifier: Apache-2.0
//
// The door from the C interface to the Swift core: Shim/Core/CallEntry.swift.

#ifndef PTRECLAIM_LIBRARY_CORE_H
#define PTRECLAIM_LIBRARY_CORE_H

#include "ptreclaim.h"

/// Returns 0 and fills `report`, all of it but `size`, or an errno.
int ptreclaim_core_call(
    uintptr_t address, size_t length, uint32_t access, struct ptreclaim_report *report);

const char *ptreclaim_core_kept_name(uint32_t reason);

#endif
