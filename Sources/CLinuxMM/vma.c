// SPDX-License-Identifier: Apache-2.0

#include "linux_mm.h"

// ---- one VMA ----------------------------------------------------------------------------------

static bool begins_with(const char *text, const char *end, const char *prefix) {
    for (; *prefix; prefix++, text++) {
        if (text >= end || *text != *prefix) {
            return false;
        }
    }
    return true;
}

/// A mapping of a device or of something that is no file: its pages may not come back by a fault.
static bool is_of_a_device(const char *name, const char *end) {
    if (!begins_with(name, end, "/")) {
        return true; // anon_inode:[io_uring], socket:[…]
    }
    if (begins_with(name, end, "/dev/")) {
        // /dev/zero is how the kernel names shared anonymous memory.
        return !begins_with(name, end, "/dev/shm/") && !begins_with(name, end, "/dev/zero");
    }
    return begins_with(name, end, "/sys/") || begins_with(name, end, "/proc/")
        || begins_with(name, end, "/anon_hugepage");
}

static uint32_t kind_of(bool is_shared, bool has_file, const char *name, const char *end) {
    if (begins_with(name, end, "[v")) {
        return PTRECLAIM_VMA_SPECIAL; // [vdso], [vvar], [vvar_vclock], [vsyscall]
    }
    if (!has_file) {
        return is_shared ? PTRECLAIM_VMA_SPECIAL : PTRECLAIM_VMA_ANONYMOUS;
    }
    if (is_of_a_device(name, end)) {
        return PTRECLAIM_VMA_SPECIAL;
    }
    return is_shared ? PTRECLAIM_VMA_SHARED : PTRECLAIM_VMA_PRIVATE_FILE;
}

// ---- the text of maps, before Linux 6.11 ------------------------------------------------------

static bool parse_hex(const char **text, const char *end, uintptr_t *value) {
    const char *begin = *text;
    for (*value = 0; *text < end; (*text)++) {
        char c = **text;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) {
            break;
        }
        *value = *value * 16 + (uintptr_t)digit;
    }
    return *text > begin;
}

static const char *skip_field(const char *text, const char *end) {
    while (text < end && *text != ' ') {
        text++;
    }
    while (text < end && *text == ' ') {
        text++;
    }
    return text;
}

/// Reads `start-end`; true where the line begins with it.
static bool parse_range(const char **text, const char *end, struct ptreclaim_vma *vma) {
    return parse_hex(text, end, &vma->start) && *text < end && *(*text)++ == '-'
        && parse_hex(text, end, &vma->end);
}

/// `text` stands behind the addresses: ` rw-p 00000000 00:00 0      name`.
static void parse_rest(const char *text, const char *end, struct ptreclaim_vma *vma) {
    text = skip_field(text, end);
    bool has_permissions = end - text >= 4;
    bool is_shared = has_permissions && text[3] == 's';
    vma->is_readable = has_permissions && text[0] == 'r';
    vma->is_writable = has_permissions && text[1] == 'w';
    vma->is_executable = has_permissions && text[2] == 'x';
    const char *inode = skip_field(skip_field(skip_field(text, end), end), end);
    bool has_file = inode < end && *inode != '0';
    vma->kind = kind_of(is_shared, has_file, skip_field(inode, end), end);
}

/// Calls `line` for each line of a file until it returns true. Lines longer than the buffer are
/// cut, which leaves their addresses whole. Returns 0, -ENOENT at the end, or another -errno.
static long for_each_line(
    int fd, bool (*line)(const char *text, const char *end, void *context), void *context) {
    char buffer[8192];
    long kept = 0;
    bool in_long_line = false;
    for (off_t offset = 0;;) {
        long count = ptreclaim_pread(fd, buffer + kept, sizeof(buffer) - (size_t)kept, offset);
        if (count < 0) {
            return count;
        }
        if (count == 0) {
            return -ENOENT;
        }
        offset += count;
        const char *end = buffer + kept + count;
        const char *text = buffer;
        for (const char *newline = text; newline < end; newline++) {
            if (*newline != '\n') {
                continue;
            }
            if (!in_long_line && line(text, newline, context)) {
                return 0;
            }
            in_long_line = false;
            text = newline + 1;
        }
        kept = end - text;
        if (kept == (long)sizeof(buffer)) {
            if (!in_long_line && line(text, end, context)) {
                return 0;
            }
            in_long_line = true;
            kept = 0;
        }
        __builtin_memmove(buffer, text, (size_t)kept);
    }
}

struct find_context {
    uintptr_t address;
    struct ptreclaim_vma vma;
};

static bool ends_behind(const char *text, const char *end, void *opaque) {
    struct find_context *context = opaque;
    if (!parse_range(&text, end, &context->vma) || context->vma.end <= context->address) {
        return false;
    }
    parse_rest(text, end, &context->vma);
    return true;
}

static long find_vma_in_text(int maps_fd, uintptr_t address, struct ptreclaim_vma *vma) {
    struct find_context context = {.address = address};
    long result = for_each_line(maps_fd, ends_behind, &context);
    *vma = context.vma;
    return result;
}

// ---- PROCMAP_QUERY ----------------------------------------------------------------------------

static long find_vma_by_query(int maps_fd, uintptr_t address, struct ptreclaim_vma *vma) {
    char name[4096];
    name[0] = '\0';
    struct ptreclaim_procmap_query query = {
        .query_flags = PTRECLAIM_PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
        .query_addr = address,
        .vma_name_addr = (uint64_t)(uintptr_t)name,
        .vma_name_size = sizeof(name),
    };
    long result = ptreclaim_procmap_query(maps_fd, &query);
    if (result == -ENAMETOOLONG) {
        // A path that long is of a regular file. Ask again without it.
        name[0] = '/';
        name[1] = '\0';
        query.vma_name_size = 0;
        query.vma_name_addr = 0;
        result = ptreclaim_procmap_query(maps_fd, &query);
    }
    if (result < 0) {
        return result;
    }
    bool is_shared = query.vma_flags & PTRECLAIM_PROCMAP_QUERY_VMA_SHARED;
    *vma = (struct ptreclaim_vma){
        .start = query.vma_start,
        .end = query.vma_end,
        .is_readable = query.vma_flags & PTRECLAIM_PROCMAP_QUERY_VMA_READABLE,
        .is_writable = query.vma_flags & PTRECLAIM_PROCMAP_QUERY_VMA_WRITABLE,
        .is_executable = query.vma_flags & PTRECLAIM_PROCMAP_QUERY_VMA_EXECUTABLE,
        .kind = query.vma_page_size == 4096
            ? kind_of(is_shared, query.inode != 0, name, name + sizeof(name))
            : (uint32_t)PTRECLAIM_VMA_SPECIAL,
    };
    return 0;
}

long ptreclaim_find_vma(int maps_fd, uintptr_t address, struct ptreclaim_vma *vma) {
    long result = find_vma_by_query(maps_fd, address, vma);
    if (result < 0 && result != -ENOENT) {
        // ENOTTY on older kernels; a seccomp filter chooses its errno.
        result = find_vma_in_text(maps_fd, address, vma);
    }
    if (result < 0 && result != -ENOENT) {
        return result;
    }
    if (result == -ENOENT) {
        *vma = (struct ptreclaim_vma){.start = address, .end = UINTPTR_MAX};
    } else if (address < vma->start) {
        *vma = (struct ptreclaim_vma){.start = address, .end = vma->start};
    }
    return 0;
}

bool ptreclaim_probe_procmap_query(void) {
    int fd = ptreclaim_open_self_maps();
    if (fd < 0) {
        return false;
    }
    struct ptreclaim_procmap_query query = {.query_addr = (uint64_t)(uintptr_t)&query};
    long result = ptreclaim_procmap_query(fd, &query);
    ptreclaim_close(fd);
    return result == 0;
}

// ---- VmFlags ----------------------------------------------------------------------------------

struct flags_context {
    uintptr_t address;
    bool is_inside;
    long flags;
};

static long flag_of(const char *two) {
    // What mmap(2) of readable, writable private memory gives, softdirty (sd), the permissions,
    // which a replacement gets too, and gu: guards were installed somewhere in the VMA. They are
    // entries, so none is in a table that is freed.
    static const char usual[] = "rd wr ex mr mw me ac sd gu ";
    for (const char *known = usual; *known; known += 3) {
        if (two[0] == known[0] && two[1] == known[1]) {
            return 0;
        }
    }
    if (two[0] == 'u' && two[1] == 'w') {
        return PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED | PTRECLAIM_VMA_UNUSUAL;
    }
    if (two[0] == 'u' && (two[1] == 'm' || two[1] == 'i')) {
        return PTRECLAIM_VMA_REGISTERED | PTRECLAIM_VMA_UNUSUAL;
    }
    if (two[0] == 'n' && two[1] == 'r') {
        return PTRECLAIM_VMA_NORESERVE;
    }
    if (two[0] == 'l' && two[1] == 'o') {
        return PTRECLAIM_VMA_LOCKED | PTRECLAIM_VMA_UNUSUAL;
    }
    return PTRECLAIM_VMA_UNUSUAL;
}

static bool is_flags_of_vma(const char *text, const char *end, void *opaque) {
    struct flags_context *context = opaque;
    struct ptreclaim_vma vma;
    const char *line = text;
    if (parse_range(&line, end, &vma)) {
        context->is_inside = vma.start <= context->address && context->address < vma.end;
        if (context->is_inside) {
            parse_rest(line, end, &vma);
            // A name given by prctl(PR_SET_VMA) would be lost with the mapping.
            const char *name = end;
            while (name > line && name[-1] != ' ') {
                name--;
            }
            context->flags = begins_with(name, end, "[anon:") ? PTRECLAIM_VMA_UNUSUAL : 0;
        }
        return vma.start > context->address;
    }
    if (!context->is_inside) {
        return false;
    }
    if (begins_with(text, end, "ProtectionKey:") && end[-1] != '0') {
        context->flags |= PTRECLAIM_VMA_UNUSUAL;
    }
    if (!begins_with(text, end, "VmFlags:")) {
        return false;
    }
    for (text = skip_field(text, end); end - text >= 2; text = skip_field(text, end)) {
        context->flags |= flag_of(text);
    }
    return true;
}

long ptreclaim_vma_flags(uintptr_t address) {
    int fd = ptreclaim_open("/proc/self/smaps", O_RDONLY);
    if (fd < 0) {
        return fd;
    }
    struct flags_context context = {.address = address, .flags = -ENOENT};
    long result = for_each_line(fd, is_flags_of_vma, &context);
    ptreclaim_close(fd);
    return result < 0 ? result : context.flags;
}

bool ptreclaim_has_memory_policy(uintptr_t address) {
    const long default_policy = 0, of_address = 2; // MPOL_DEFAULT, MPOL_F_ADDR
    int policy = default_policy;
    long result = ptreclaim_syscall(
        SYS_get_mempolicy, (long)&policy, 0, 0, (long)address, of_address, 0);
    // ENOSYS: a kernel without NUMA has no policies.
    return result == -ENOSYS ? false : result < 0 || policy != default_policy;
}
