// SPDX-License-Identifier: Apache-2.0
//
// The doors of the Swift core; see Shim/Core/Entry.swift.

#ifndef PTRECLAIM_CORE_H
#define PTRECLAIM_CORE_H

#include "pass.h"
#include "service.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint32_t ptreclaim_core_probe(uint32_t wanted);
bool ptreclaim_core_dontneed_frees_tables(void);
int32_t ptreclaim_core_decommit(
    uintptr_t address, size_t byte_count, uint64_t *zapped, uint64_t *skipped);
void ptreclaim_core_merge(
    uintptr_t lower, size_t lower_byte_count, uintptr_t upper, size_t upper_byte_count,
    bool committed, uint64_t *zapped, uint64_t *skipped);
bool ptreclaim_core_plan_mapping(size_t *byte_count, size_t *alignment);
bool ptreclaim_core_add_reserve(uintptr_t address, size_t byte_count);
void ptreclaim_core_drop_reserve(uintptr_t address, size_t byte_count);
int32_t ptreclaim_core_serve(struct ptreclaim_service *service, struct ptreclaim_pass *pass);
int32_t
ptreclaim_core_reclaim_whole(struct ptreclaim_service *service, struct ptreclaim_pass *pass);

#endif
