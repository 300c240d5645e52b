// SPDX-License-Identifier: Apache-2.0
//
// A program that allocates from a jemalloc behind PREFIX, and checks what it wrote.

#include <stdlib.h>
#include <string.h>

#define JOIN_(prefix, name) prefix##name
#define JOIN(prefix, name) JOIN_(prefix, name)

void *JOIN(PREFIX, malloc)(size_t byte_count);
void JOIN(PREFIX, free)(void *start);

int main(void) {
    enum { COUNT = 2000, BYTES = 40000 };
    static unsigned char *blocks[COUNT];
    // In a program that is no PIE, taking the pointer makes a symbol of its own for it.
    void *(*volatile allocate)(size_t) = JOIN(PREFIX, malloc);
    int wrong = 0;
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = allocate(BYTES);
        memset(blocks[i], i % 255 + 1, BYTES);
    }
    for (int i = 0, at = 0; i < COUNT; i++, at = (at + 1237) % COUNT) {
        wrong += blocks[at][0] != at % 255 + 1 || blocks[at][BYTES - 1] != at % 255 + 1;
        JOIN(PREFIX, free)(blocks[at]);
    }
    return wrong != 0;
}
