// SPDX-License-Identifier: Apache-2.0
//
// What the calling process's page tables cost, and how much of that its live pages need.

#ifndef DRIVERS_PAGE_TABLES_H
#define DRIVERS_PAGE_TABLES_H

#include <stdbool.h>
#include <stdint.h>

struct page_table_census {
    uint64_t vm_pte_byte_count;    // PTE, PMD and PUD tables, as the kernel counts them
    uint64_t needed_byte_count;    // the part above and for live pages
    uint64_t vma_count;
    bool used_scan; // PAGEMAP_SCAN; otherwise the words of /proc/self/pagemap
};

/// Takes the census of this process, without allocating. Returns 0 or -errno.
int take_page_table_census(struct page_table_census *census);

#endif
