// SPDX-License-Identifier: Apache-2.0

#include "stats.h"

#include "linux_mm.h"
#include "stats_page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SWITCHED_OFF = 19 /* KeptReason */, PATIENCE_MS = 10000 };

static struct ptreclaim_stats_page *find(void) {
    static struct ptreclaim_stats_page *found;
    FILE *maps = found ? NULL : fopen("/proc/self/maps", "r");
    char line[512];
    while (!found && maps && fgets(line, sizeof(line), maps)) {
        if (strstr(line, PTRECLAIM_STATS_NAME)) {
            found = (struct ptreclaim_stats_page *)strtoul(line, NULL, 16);
        }
    }
    if (maps) {
        fclose(maps);
    }
    if (!found || found->magic != PTRECLAIM_STATS_MAGIC) {
        printf("advice: no stats page\n");
        exit(1);
    }
    return found;
}

struct work work_so_far(void) {
    struct ptreclaim_stats_page *stats = find();
    return (struct work){
        __atomic_load_n(&stats->passes, __ATOMIC_RELAXED),
        __atomic_load_n(&stats->tables_looked_at, __ATOMIC_RELAXED)};
}

bool has_given_up(void) { return __atomic_load_n(&find()->fences_opened, __ATOMIC_RELAXED) > 0; }

int64_t ask_for_a_pass(void) {
    struct ptreclaim_control *control = &find()->control;
    const uint32_t request = __atomic_add_fetch(&control->requests, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&control->nudges, 1, __ATOMIC_SEQ_CST);
    const int wake = 1;
    ptreclaim_syscall(SYS_futex, (long)&control->nudges, wake, 1, 0, 0, 0);
    for (int i = 0; i < PATIENCE_MS; i++) {
        if (__atomic_load_n(&control->answers, __ATOMIC_ACQUIRE) == request) {
            return control->pass_errno ? -1 : (int64_t)control->kept[SWITCHED_OFF];
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return -1;
}
