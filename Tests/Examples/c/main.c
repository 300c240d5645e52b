// SPDX-License-Identifier: Apache-2.0
//
// Gives 64 MiB back to Linux in small pieces, as allocators do, and then the page tables too.
//
//   cc -std=c17 main.c $(pkg-config --cflags --libs ptreclaim)

#define _GNU_SOURCE
#include <inttypes.h>
#include <ptreclaim.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int main(void) {
    const size_t length = 64 << 20, piece = 64 << 10;
    char *memory = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    madvise(memory, length, MADV_NOHUGEPAGE); // a huge page has no table to free
    memset(memory, 1, length);
    for (size_t offset = 0; offset < length; offset += piece) {
        madvise(memory + offset, piece, MADV_DONTNEED);
    }

    // OWNED: nobody else uses this memory meanwhile.
    struct ptreclaim_report report = {.size = sizeof(report)};
    if (ptreclaim(memory, length, PTRECLAIM_OWNED, &report)) {
        perror("ptreclaim");
        return 1;
    }
    printf("examined: %" PRIu64 "\nfreed: %" PRIu64 "\n", report.tables_examined,
        report.tables_freed);
    printf("VmPTE before: %" PRId64 "\nVmPTE after: %" PRId64 "\n", report.vm_pte_before,
        report.vm_pte_after);
    for (unsigned reason = 0; reason < PTRECLAIM_KEPT_REASONS; reason++) {
        if (report.kept[reason]) {
            printf("kept, %s: %" PRIu64 "\n", ptreclaim_kept_name(reason), report.kept[reason]);
        }
    }
    return 0;
}
