// SPDX-License-Identifier: Apache-2.0
//
// A process that has memory and does nothing.
//
//   idle-space USED_MIB RESERVED_GIB PIECES
//       reserves address space, writes to every page of as much as is used of it, in pieces at equal
//       distances, says "ready", and waits for the end of its input.

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: idle-space USED_MIB RESERVED_GIB PIECES\n");
        return 2;
    }
    const size_t used = strtoul(argv[1], NULL, 10) << 20;
    const size_t reserved = strtoul(argv[2], NULL, 10) << 30;
    const size_t pieces = strtoul(argv[3], NULL, 10);
    if (pieces == 0 || used / pieces > reserved / pieces) {
        fprintf(stderr, "idle-space: more used than reserved, or in no piece\n");
        return 2;
    }
    unsigned char *memory = mmap(
        NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("idle-space: mmap");
        return 1;
    }
    for (size_t piece = 0; piece < pieces; piece++) {
        volatile unsigned char *start = memory + (piece * (reserved / pieces) & ~(size_t)4095);
        for (size_t offset = 0; offset < used / pieces; offset += 4096) {
            start[offset] = 1;
        }
    }
    static const char ready[] = "ready\n";
    if (write(1, ready, sizeof(ready) - 1) < 0) {
        return 1;
    }
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}
