// SPDX-License-Identifier: Apache-2.0

#include "linux_mm.h"

#include <errno.h>

long ptreclaim_self_vm_pte(void) {
    // VmPTE stands about 500 bytes into the file, after a Groups: line of at most some hundreds.
    char text[3072];
    int fd = ptreclaim_open("/proc/self/status", O_RDONLY);
    if (fd < 0) {
        return fd;
    }
    long count = ptreclaim_pread(fd, text, sizeof(text), 0);
    ptreclaim_close(fd);
    if (count < 0) {
        return count;
    }
    static const char key[] = "\nVmPTE:";
    const long key_count = (long)sizeof(key) - 1;
    for (long i = 0; i + key_count < count; i++) {
        long k = 0;
        while (k < key_count && text[i + k] == key[k]) {
            k++;
        }
        if (k < key_count) {
            continue;
        }
        long kib = 0;
        for (i += key_count; i < count && (text[i] == ' ' || text[i] == '\t'); i++) {
        }
        for (; i < count && text[i] >= '0' && text[i] <= '9'; i++) {
            kib = kib * 10 + (text[i] - '0');
        }
        return kib * 1024;
    }
    return -ENODATA;
}
