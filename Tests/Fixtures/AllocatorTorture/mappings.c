// SPDX-License-Identifier: Apache-2.0

#include "mappings.h"

#include "contents.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    SPAN_BYTES = 2 << 20,
    PAGES_PER_SPAN = SPAN_BYTES / PAGE_BYTES,
    LONGEST_AREA_SPANS = 64,
    CHANGING_SPANS = 6,
    CHANGING_AREAS = 2, // of each thread
    SHARERS = 4,        // threads that have a part of each span of the same mapping
    MOST_AREA_PAGES = LONGEST_AREA_SPANS * PAGES_PER_SPAN / SHARERS,
    COPIED_PAGES = 8,
    CHILD_STEPS = 20,
};

/// Far from where the kernel and mimalloc look for room: a hole here stays ours, so MAP_FIXED may
/// fill it.
#define FAR_PLACES ((uintptr_t)0x300000000000)

enum content {
    ZERO,    // never written since it was mapped or dropped
    WRITTEN, // has its pattern
    LAZY,    // MADV_FREE since: has its pattern, or is zero
};

struct page {
    uint32_t generation;
    uint8_t content;
    bool is_shared; // of a memfd: MADV_DONTNEED does not lose what is in it
};

/// Pages whose contents are known. Whoever holds `busy` may look at and change them.
///
///     | own | others' |  own | others' |     of empty spans: a part of each span
///     |       own         |                  of changing mappings: all
struct area {
    atomic_flag busy;
    unsigned char *start;
    unsigned char *other_home; // a hole of ours, or NULL: the kernel chose the place
    size_t first_page, pages_per_span;
    size_t page_count, shared_page_count;
    struct page pages[MOST_AREA_PAGES];
};

enum kind {
    WRITE, DROP, LAZY_FREE, CHECK, UNMAP, UNMAP_NOREPLACE, REPLACE, PROTECT, SHRINK, MOVE, SHARE,
    KERNEL_WRITE, KERNEL_READ, EMPTY, VACATE, TAKEN, KIND_COUNT
};

static const char *const kind_names[KIND_COUNT] = {
    "page writes", "drops", "lazy frees", "checks", "unmaps, MAP_FIXED",
    "unmaps, MAP_FIXED_NOREPLACE", "replacements", "protections", "shrinks", "moves",
    "shared mappings", "kernel writes", "kernel reads", "spans made empty", "areas made empty",
    "places taken",
};

static struct area *changing, *sparse; // CHANGING_AREAS, and one, for each thread
static unsigned mapper_count;
static atomic_ulong counts[KIND_COUNT];

static void count_one(enum kind kind) {
    atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
}

/// A call that has to succeed did not: as bad as a wrong byte.
static void report_failure(const char *what, const void *start, size_t byte_count) {
    const int error = errno;
    if (atomic_fetch_add(&wrong_byte_count, 1) < 4096) {
        fprintf(stderr, "%s: %s, of %zu bytes at %p\n", what, strerror(error), byte_count, start);
    }
}

static void *map(void *start, size_t byte_count, int flags) {
    return mmap(start, byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1,
                0);
}

// ---- pages -------------------------------------------------------------------------------------

static unsigned char *address_of(const struct area *area, size_t page) {
    return area->start + page / area->pages_per_span * SPAN_BYTES
        + (area->first_page + page % area->pages_per_span) * PAGE_BYTES;
}

static uint64_t key_of(const struct area *area, size_t page) {
    return mix((uintptr_t)area + page) ^ area->pages[page].generation;
}

/// Memory is lost by whole pages: one line says as much as all of it.
static size_t line_of(size_t page) { return mix(page) % (PAGE_BYTES / LINE_BYTES) * LINE_BYTES; }

/// Writes what the page will have to hold, there or in a copy of it.
static void fill_page(struct area *area, size_t page, unsigned char *start) {
    area->pages[page].generation++;
    fill_part(start, key_of(area, page), line_of(page), line_of(page) + LINE_BYTES);
}

static bool is_right(const struct area *area, size_t page, const unsigned char *start) {
    const size_t line = line_of(page);
    const bool is_zero = count_nonzero(start + line, LINE_BYTES) == 0;
    const uint8_t content = area->pages[page].content;
    return content == ZERO ? is_zero
        : (content == LAZY && is_zero)
            || check_part(start, key_of(area, page), line, line + LINE_BYTES) == 0;
}

static void write_page(struct area *area, size_t page) {
    fill_page(area, page, address_of(area, page));
    area->pages[page].content = WRITTEN;
    count_one(WRITE);
}

static void check_page(const char *what, struct area *area, size_t page) {
    const unsigned char *start = address_of(area, page);
    if (!is_right(area, page, start)) {
        static const char *const names[] = {"a zero", "a written", "a lazily freed"};
        char text[80];
        snprintf(text, sizeof(text), "%s, %s page", what, names[area->pages[page].content]);
        report_wrong(text, start, PAGE_BYTES, LINE_BYTES);
    }
}

static void check_pages(const char *what, struct area *area, size_t first, size_t count) {
    for (size_t page = first; page < first + count; page++) {
        check_page(what, area, page);
    }
    count_one(CHECK);
}

/// The pages are a new mapping's.
static void forget_pages(struct area *area, size_t first, size_t count, bool is_shared) {
    for (size_t page = first; page < first + count; page++) {
        area->shared_page_count += is_shared;
        area->shared_page_count -= area->pages[page].is_shared;
        area->pages[page].content = ZERO;
        area->pages[page].is_shared = is_shared;
    }
}

static bool has_shared(const struct area *area, size_t first, size_t count) {
    for (size_t page = first; area->shared_page_count && page < first + count; page++) {
        if (area->pages[page].is_shared) {
            return true;
        }
    }
    return false;
}

// ---- steps on any area -------------------------------------------------------------------------

static void drop(struct area *area, size_t first, size_t count) {
    if (madvise(address_of(area, first), count * PAGE_BYTES, MADV_DONTNEED) != 0) {
        report_failure("MADV_DONTNEED", address_of(area, first), count * PAGE_BYTES);
        return;
    }
    for (size_t page = first; page < first + count; page++) {
        if (!area->pages[page].is_shared) {
            area->pages[page].content = ZERO;
        }
    }
    count_one(DROP);
}

/// Moves bytes between a file or pipe and pages, where the kernel is who touches them.
/// False: a call was refused, or came to an end before all of it.
static bool copy_in(unsigned char *start, const unsigned char *bytes, size_t count, bool is_pipe) {
    int ends[2] = {-1, -1};
    bool is_done = false;
    if (is_pipe && pipe2(ends, O_CLOEXEC) == 0) {
        is_done = write(ends[1], bytes, count) == (ssize_t)count
            && read(ends[0], start, count) == (ssize_t)count;
    } else if (!is_pipe && (ends[0] = memfd_create("torture", MFD_CLOEXEC)) >= 0) {
        is_done = pwrite(ends[0], bytes, count, 0) == (ssize_t)count
            && pread(ends[0], start, count, 0) == (ssize_t)count;
    }
    const int error = errno;
    close(ends[0]);
    if (is_pipe) {
        close(ends[1]);
    }
    errno = error;
    return is_done;
}

static void write_by_kernel(struct area *area, size_t first, size_t count, uint64_t *state) {
    unsigned char bytes[COPIED_PAGES * PAGE_BYTES] = {0};
    count = count < COPIED_PAGES ? count : COPIED_PAGES;
    for (size_t i = 0; i < count; i++) {
        fill_page(area, first + i, bytes + i * PAGE_BYTES);
        area->pages[first + i].content = WRITTEN;
    }
    errno = 0;
    if (!copy_in(address_of(area, first), bytes, count * PAGE_BYTES, next(state) % 2)) {
        report_failure("read by the kernel into memory", address_of(area, first),
                       count * PAGE_BYTES);
    }
    check_pages("kernel write", area, first, count);
    count_one(KERNEL_WRITE);
}

static void read_by_kernel(struct area *area, size_t first, size_t count) {
    unsigned char bytes[COPIED_PAGES * PAGE_BYTES];
    count = count < COPIED_PAGES ? count : COPIED_PAGES;
    errno = 0;
    if (!copy_in(bytes, address_of(area, first), count * PAGE_BYTES, true)) {
        report_failure("write by the kernel from memory", address_of(area, first),
                       count * PAGE_BYTES);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (!is_right(area, first + i, bytes + i * PAGE_BYTES)) {
            report_wrong("kernel read", address_of(area, first + i), PAGE_BYTES, LINE_BYTES);
        }
    }
    count_one(KERNEL_READ);
}

/// Between two calls, so that a fence may come in between.
static void pause_briefly(uint64_t *state) {
    const uint64_t choice = next(state);
    if (choice % 64 == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } else if (choice % 8 == 0) {
        sched_yield();
    } else {
        for (volatile uint64_t i = 0; i < (choice >> 8) % 4096; i++) {
        }
    }
}

// ---- mappings that change ----------------------------------------------------------------------

static size_t bytes_of(const struct area *area) { return area->page_count * PAGE_BYTES; }

/// Everything of `area` is unmapped but `first ..< first + count`, which is somebody else's now.
static void move_out(struct area *area, size_t first, size_t count) {
    count_one(TAKEN);
    const size_t end = first + count;
    if (first > 0) {
        munmap(area->start, first * PAGE_BYTES);
    }
    if (end < area->page_count) {
        munmap(address_of(area, end), (area->page_count - end) * PAGE_BYTES);
    }
    unsigned char *start = map(NULL, bytes_of(area), 0);
    if (start == MAP_FAILED) {
        perror("allocator-torture: mmap");
        _exit(2);
    }
    area->start = start;
    area->other_home = NULL;
    forget_pages(area, 0, area->page_count, false);
}

/// Fills the hole `first ..< first + count`.
static void map_again(struct area *area, size_t first, size_t count, bool may_replace) {
    unsigned char *place = address_of(area, first);
    const size_t byte_count = count * PAGE_BYTES;
    unsigned char *start = map(place, byte_count, may_replace ? MAP_FIXED : MAP_FIXED_NOREPLACE);
    if (start == place) {
        forget_pages(area, first, count, false);
        return;
    }
    if (start != MAP_FAILED) {
        munmap(start, byte_count); // kernels before 4.17 take the flag for a hint
    } else if (errno != EEXIST || area->other_home) {
        report_failure("mmap", place, byte_count);
    }
    move_out(area, first, count);
}

static void unmap_and_map(struct area *area, size_t first, size_t count, uint64_t *state) {
    if (munmap(address_of(area, first), count * PAGE_BYTES) != 0) {
        report_failure("munmap", address_of(area, first), count * PAGE_BYTES);
        return;
    }
    pause_briefly(state);
    const bool may_replace = area->other_home && next(state) % 2;
    map_again(area, first, count, may_replace);
    count_one(may_replace ? UNMAP : UNMAP_NOREPLACE);
}

static void replace(struct area *area, size_t first, size_t count) {
    unsigned char *place = address_of(area, first);
    if (map(place, count * PAGE_BYTES, MAP_FIXED) != place) {
        report_failure("mmap, MAP_FIXED", place, count * PAGE_BYTES);
        return;
    }
    forget_pages(area, first, count, false);
    count_one(REPLACE);
}

static void share(struct area *area, size_t first, size_t count) {
    unsigned char *place = address_of(area, first);
    const int file = memfd_create("torture", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)(count * PAGE_BYTES)) != 0) {
        perror("allocator-torture: memfd");
        _exit(2);
    }
    if (mmap(place, count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0)
        == place) {
        forget_pages(area, first, count, true);
        count_one(SHARE);
    } else {
        report_failure("mmap of a memfd", place, count * PAGE_BYTES);
    }
    close(file);
}

static void protect(struct area *area, size_t first, size_t count, uint64_t *state) {
    unsigned char *place = address_of(area, first);
    const bool is_readable = next(state) % 4;
    if (mprotect(place, count * PAGE_BYTES, is_readable ? PROT_READ : PROT_NONE) != 0) {
        report_failure("mprotect", place, count * PAGE_BYTES);
        return;
    }
    pause_briefly(state);
    if (is_readable) {
        check_pages("read only", area, first, count);
    }
    if (mprotect(place, count * PAGE_BYTES, PROT_READ | PROT_WRITE) != 0) {
        report_failure("mprotect", place, count * PAGE_BYTES);
        _exit(1);
    }
    count_one(PROTECT);
}

/// Cuts off the end and lets what is before it grow over the hole.
static void shrink_and_grow(struct area *area, size_t cut, uint64_t *state) {
    const size_t kept = area->page_count - cut;
    unsigned char *last = address_of(area, kept - 1);
    const size_t long_count = (cut + 1) * PAGE_BYTES;
    if (has_shared(area, kept - 1, cut + 1)) {
        return; // more than one mapping, and a file would not grow with it
    }
    replace(area, kept - 1, cut + 1); // one mapping for sure
    write_page(area, kept - 1 + next(state) % (cut + 1));
    write_page(area, kept - 1);
    pause_briefly(state);
    if (mremap(last, long_count, PAGE_BYTES, 0) != last) {
        report_failure("mremap to less", last, long_count);
        return;
    }
    pause_briefly(state);
    if (mremap(last, PAGE_BYTES, long_count, 0) == last) {
        forget_pages(area, kept, cut, false);
    } else {
        map_again(area, kept, cut, false); // somebody is in the way, or was
    }
    count_one(SHRINK);
}

static unsigned char *move_home(struct area *area, bool leaves_mapping) {
    const size_t byte_count = bytes_of(area);
    unsigned char *old = area->start, *home = area->other_home;
    const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (leaves_mapping ? MREMAP_DONTUNMAP : 0);
    if (mremap(old, byte_count, byte_count, flags, home) != home) {
        return NULL;
    }
    if (leaves_mapping) {
        const size_t wrong = count_nonzero(old, PAGE_BYTES);
        if (wrong) {
            report_wrong("left behind by mremap", old, PAGE_BYTES, wrong);
        }
        if (munmap(old, byte_count) != 0) {
            report_failure("munmap", old, byte_count);
        }
    }
    area->other_home = old;
    return home;
}

/// To the other home; or larger and back, to wherever the kernel puts it.
static unsigned char *move_anywhere(struct area *area) {
    const size_t byte_count = bytes_of(area);
    unsigned char *start =
        mremap(area->start, byte_count, byte_count + SPAN_BYTES, MREMAP_MAYMOVE);
    if (start == MAP_FAILED) {
        return NULL;
    }
    if (munmap(start + byte_count, SPAN_BYTES) != 0) {
        report_failure("munmap", start + byte_count, SPAN_BYTES);
    }
    return start;
}

static void move(struct area *area, uint64_t *state) {
    replace(area, 0, area->page_count); // one mapping for sure
    for (int i = 0; i < 16; i++) {
        write_page(area, next(state) % area->page_count);
    }
    const size_t first = next(state) % area->page_count;
    drop(area, first, area->page_count - first);
    pause_briefly(state);
    unsigned char *start =
        area->other_home ? move_home(area, next(state) % 4 == 0) : move_anywhere(area);
    if (!start) {
        report_failure("mremap elsewhere", area->start, bytes_of(area));
        _exit(1);
    }
    area->start = start;
    check_pages("move", area, 0, area->page_count);
    count_one(MOVE);
}

/// Half of the ranges are short, the others whole spans or anything.
static void choose_range(const struct area *area, uint64_t *state, size_t *first, size_t *count) {
    *first = next(state) % area->page_count;
    const size_t most = area->page_count - *first;
    switch (next(state) % 4) {
    case 0: {
        const size_t before =
            (size_t)(-(uintptr_t)area->start & (SPAN_BYTES - 1)) / PAGE_BYTES;
        const size_t spans = (area->page_count - before) / PAGES_PER_SPAN;
        const size_t span = next(state) % spans;
        *first = before + span * PAGES_PER_SPAN;
        *count = (1 + next(state) % (spans - span)) * PAGES_PER_SPAN;
        break;
    }
    case 1: *count = 1 + next(state) % most; break;
    default: *count = 1 + next(state) % (most < 64 ? most : 64);
    }
}

/// Empties all of it and lets the tables stay, as no call drops a whole span; then, as a fence may
/// come at any moment, changes a part and writes there at once.
static void empty_and_change(struct area *area, size_t first, size_t count, uint64_t *state) {
    if (area->shared_page_count) {
        replace(area, 0, area->page_count);
    }
    for (size_t page = 0; page < area->page_count; page += PAGES_PER_SPAN / 2) {
        write_page(area, page);
        drop(area, page, PAGES_PER_SPAN / 2);
    }
    count_one(VACATE);
    pause_briefly(state);
    for (int i = 0; i < 4; i++) {
        if (next(state) % 2) {
            replace(area, first, count);
        } else {
            unmap_and_map(area, first, count, state);
        }
        for (int j = 0; j < 4; j++) {
            write_page(area, first + next(state) % count);
        }
        pause_briefly(state);
        check_pages("new mapping", area, first, count);
        drop(area, first, (count + 1) / 2);
    }
}

static void change(struct area *area, uint64_t *state) {
    size_t first, count;
    choose_range(area, state, &first, &count);
    const unsigned choice = next(state) % 72;
    if (choice >= 64) {
        empty_and_change(area, first, count, state);
        return;
    }
    if (choice < 20) {
        const size_t stride = 1 + next(state) % 32;
        for (size_t page = first; page < first + count; page += stride) {
            write_page(area, page);
        }
    } else if (choice < 32) {
        drop(area, first, count);
    } else if (choice < 38) {
        check_pages("check", area, first, count);
    } else if (choice < 41) {
        if (!has_shared(area, first, count)) {
            if (madvise(address_of(area, first), count * PAGE_BYTES, MADV_FREE) != 0) {
                report_failure("MADV_FREE", address_of(area, first), count * PAGE_BYTES);
            }
            for (size_t page = first; page < first + count; page++) {
                if (area->pages[page].content == WRITTEN) {
                    area->pages[page].content = LAZY;
                }
            }
            count_one(LAZY_FREE);
        }
    } else if (choice < 46) {
        unmap_and_map(area, first, count, state);
    } else if (choice < 49) {
        replace(area, first, count);
    } else if (choice < 51) {
        share(area, first, count);
    } else if (choice < 54) {
        protect(area, first, count, state);
    } else if (choice < 56) {
        shrink_and_grow(area, count < area->page_count ? count : count - 1, state);
    } else if (choice < 57) {
        move(area, state);
    } else if (choice < 61) {
        write_by_kernel(area, first, count, state);
    } else {
        read_by_kernel(area, first, count);
    }
}

void change_mappings(unsigned mapper, uint64_t *state) {
    struct area *area = &changing[mapper * CHANGING_AREAS + next(state) % CHANGING_AREAS];
    while (atomic_flag_test_and_set_explicit(&area->busy, memory_order_acquire)) {
    }
    change(area, state);
    atomic_flag_clear_explicit(&area->busy, memory_order_release);
}

// ---- empty spans -------------------------------------------------------------------------------

/// Makes a run of spans empty, each with the table that its page had. No thread's part of a span is
/// all of it, so no single MADV_DONTNEED frees the table on the way.
static void empty_spans(struct area *area, uint64_t *state) {
    const size_t spans = area->page_count / area->pages_per_span;
    const size_t first = next(state) % spans;
    for (size_t i = 0; i < 16; i++) {
        const size_t page = (first + i) % spans * area->pages_per_span;
        write_page(area, page + next(state) % area->pages_per_span);
        drop(area, page, area->pages_per_span);
        count_one(EMPTY);
    }
}

void use_empty_spans(unsigned mapper, uint64_t *state) {
    struct area *area = &sparse[mapper];
    while (atomic_flag_test_and_set_explicit(&area->busy, memory_order_acquire)) {
    }
    const size_t part = next(state) % (area->page_count / area->pages_per_span);
    const size_t page = next(state) % area->pages_per_span;
    const size_t first = part * area->pages_per_span + page;
    const size_t count = 1 + next(state) % (area->pages_per_span - page);
    const unsigned choice = next(state) % 16;
    if (choice < 1) {
        empty_spans(area, state);
    } else if (choice < 7) { // the moment: a write to a span that is empty, as far as we know
        write_page(area, first);
        check_page("write", area, first);
        if (next(state) % 2) {
            pause_briefly(state);
            check_page("later", area, first);
        }
    } else if (choice < 9) {
        write_by_kernel(area, first, count, state);
    } else if (choice < 10) {
        read_by_kernel(area, first, count);
    } else if (choice < 11) {
        check_pages("check", area, part * area->pages_per_span, area->pages_per_span);
        drop(area, part * area->pages_per_span, area->pages_per_span);
    } else if (choice < 15) {
        drop(area, part * area->pages_per_span, area->pages_per_span);
    } else {
        pause_briefly(state);
    }
    atomic_flag_clear_explicit(&area->busy, memory_order_release);
}

// ---- all of them -------------------------------------------------------------------------------

bool prepare_mappings(unsigned count) {
    mapper_count = count;
    changing = map(NULL, count * (CHANGING_AREAS + 1) * sizeof(struct area), 0);
    if (changing == MAP_FAILED) {
        return false;
    }
    sparse = changing + count * CHANGING_AREAS;
    for (unsigned i = 0; i < count * CHANGING_AREAS; i++) {
        struct area *area = &changing[i];
        const bool is_far = i % CHANGING_AREAS;
        area->pages_per_span = PAGES_PER_SPAN;
        area->page_count = CHANGING_SPANS * PAGES_PER_SPAN;
        // Homes of its own, not aligned alike, so that a move is no move of whole tables only.
        unsigned char *home = (unsigned char *)FAR_PLACES + (size_t)i * 64 * SPAN_BYTES;
        area->start = map(is_far ? home : NULL, bytes_of(area), is_far ? MAP_FIXED_NOREPLACE : 0);
        area->other_home =
            is_far ? home + 32 * SPAN_BYTES + i / CHANGING_AREAS % 3 * 5 * PAGE_BYTES : NULL;
        if (area->start == MAP_FAILED || (is_far && area->start != home)) {
            return false;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        struct area *area = &sparse[i];
        const bool is_first = i % SHARERS == 0;
        unsigned char *start =
            is_first ? map(NULL, (LONGEST_AREA_SPANS + 1) * (size_t)SPAN_BYTES, 0) : NULL;
        if (start == MAP_FAILED) {
            return false;
        }
        area->start = is_first
            ? (unsigned char *)(((uintptr_t)start + SPAN_BYTES - 1) & ~(uintptr_t)(SPAN_BYTES - 1))
            : sparse[i - 1].start;
        area->pages_per_span = PAGES_PER_SPAN / SHARERS;
        area->first_page = i % SHARERS * area->pages_per_span;
        area->page_count = LONGEST_AREA_SPANS * area->pages_per_span;
    }
    return true;
}

static void check_area(const char *what, struct area *area, bool is_child) {
    if (atomic_flag_test_and_set_explicit(&area->busy, memory_order_acquire)) {
        return;
    }
    for (size_t page = 0; page < area->page_count; page++) {
        if (!is_child || !area->pages[page].is_shared) { // the parent goes on writing there
            check_page(what, area, page);
        }
    }
    atomic_flag_clear_explicit(&area->busy, memory_order_release);
}

static void check_all(const char *what, bool is_child) {
    for (unsigned i = 0; i < mapper_count * (CHANGING_AREAS + 1); i++) {
        check_area(what, &changing[i], is_child);
    }
}

void check_mappings(void) { check_all("end", false); }

void use_mappings_as_child(uint64_t *state) {
    check_all("child", true);
    for (unsigned i = 0; mapper_count && i < CHILD_STEPS; i++) {
        const unsigned mapper = next(state) % mapper_count;
        struct area *area = &changing[mapper * CHANGING_AREAS + next(state) % CHANGING_AREAS];
        if (atomic_flag_test_and_set_explicit(&area->busy, memory_order_acquire)) {
            continue;
        }
        if (area->shared_page_count) {
            replace(area, 0, area->page_count);
        }
        change(area, state);
        atomic_flag_clear_explicit(&area->busy, memory_order_release);
    }
}

void print_mapping_counts(void) {
    unsigned long mappings = 0;
    for (int kind = UNMAP; kind <= SHARE; kind++) {
        mappings += atomic_load(&counts[kind]);
    }
    printf("mappings: %lu\n", mappings);
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        printf("%s: %lu\n", kind_names[kind], atomic_load(&counts[kind]));
    }
}
