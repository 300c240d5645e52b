// SPDX-License-Identifier: Apache-2.0

#include "stats.h"

#include "jemalloc.h"
#include "linux_mm.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

typedef int mallctl_function(const char *, void *, size_t *, void *, size_t);
typedef int mallctlnametomib_function(const char *, size_t *, size_t *);
typedef int mallctlbymib_function(const size_t *, size_t, void *, size_t *, void *, size_t);

// Set once by the constructor, before any other thread of ours can look.
static mallctl_function *mallctl_entry;
static mallctlnametomib_function *mallctlnametomib_entry;
static mallctlbymib_function *mallctlbymib_entry;
static uintptr_t object_start, object_end; // the loaded object jemalloc is part of

extent_hooks_t *ptreclaim_default_hooks;
static extent_hooks_t *our_hooks;

// MALLCTL_ARENAS_ALL is 4096: there are never more arenas.
enum { MOST_ARENAS = 4096 };
static uint64_t hooked[MOST_ARENAS / 64];
static bool arenas_expected;

enum { ARENA_MIB = 3, NAME_MIB = 2 };
static size_t hooks_mib[ARENA_MIB], decay_mib[ARENA_MIB], thread_arena_mib[NAME_MIB],
    narenas_mib[NAME_MIB];

// ---- finding -----------------------------------------------------------------------------------

static void *object_of(const void *symbol) {
    Dl_info info;
    return symbol && dladdr(symbol, &info) ? info.dli_fbase : NULL;
}

/// The definition that a call of `name` reaches. What dlsym finds is what a pointer to it is: if a
/// program that is no PIE takes one, that is a stub of its own, a symbol that it does not define.
static void *definition_of(const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    Dl_info info;
    void *symbol = NULL;
    if (!found || !dladdr1(found, &info, &symbol, RTLD_DL_SYMENT) || !symbol
        || ((const ElfW(Sym) *)symbol)->st_shndx != SHN_UNDEF) {
        return found;
    }
    // Calls go to the first object that defines it, in the order in which they were loaded.
    void *program = dlopen(NULL, RTLD_LAZY | RTLD_NOLOAD);
    struct link_map *object = NULL;
    if (!program || dlinfo(program, RTLD_DI_LINKMAP, &object) != 0) {
        return found;
    }
    void *definition = NULL;
    for (object = object->l_next; object && !definition; object = object->l_next) {
        void *handle = dlopen(object->l_name, RTLD_LAZY | RTLD_NOLOAD);
        if (handle) {
            void *defined = dlsym(handle, name); // by the object or by what it needs
            definition = object_of(defined) == object_of(object->l_ld) ? defined : NULL;
            dlclose(handle);
        }
    }
    dlclose(program);
    return definition;
}

/// `name` as defined by the very object that defines `neighbour`.
static void *find_beside(const char *name, const void *neighbour) {
    void *object = object_of(neighbour);
    void *found = dlsym(RTLD_DEFAULT, name);
    if (found && object_of(found) == object) {
        return found;
    }
    Dl_info info;
    if (!neighbour || !dladdr(neighbour, &info)) {
        return NULL;
    }
    void *handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) {
        return NULL;
    }
    found = dlsym(handle, name);
    dlclose(handle); // RTLD_NOLOAD took a reference to what stays loaded anyway
    return found && object_of(found) == object ? found : NULL;
}

struct object_search {
    uintptr_t address, start, end;
};

static int match_object(struct dl_phdr_info *info, size_t byte_count, void *argument) {
    (void)byte_count;
    struct object_search *search = argument;
    uintptr_t start = UINTPTR_MAX, end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD) {
            uintptr_t low = info->dlpi_addr + segment->p_vaddr;
            uintptr_t high = low + segment->p_memsz;
            start = low < start ? low : start;
            end = high > end ? high : end;
        }
    }
    if (start <= search->address && search->address < end) {
        search->start = start;
        search->end = end;
        return 1;
    }
    return 0;
}

/// Takes the entry points that stand beside `mallctl_symbol` and share its prefix: `je_mallctl`
/// goes with `je_mallctlbymib`. False where one is missing.
static bool adopt(const char *mallctl_name, void *mallctl_symbol) {
    static const char base[] = "mallctl";
    const size_t length = strlen(mallctl_name), base_length = sizeof(base) - 1;
    char name[64];
    if (length < base_length || length + sizeof("nametomib") > sizeof(name)
        || strcmp(mallctl_name + length - base_length, base) != 0) {
        return false;
    }
    const size_t prefix = length - base_length;
    memcpy(name, mallctl_name, prefix);
    void *found[2];
    static const char *const suffixes[] = {"mallctlnametomib", "mallctlbymib"};
    for (int i = 0; i < 2; i++) {
        memcpy(name + prefix, suffixes[i], strlen(suffixes[i]) + 1);
        found[i] = find_beside(name, mallctl_symbol);
    }
    if (!found[0] || !found[1]) {
        return false;
    }
    // dlsym's result is an object pointer; POSIX lets it hold a function.
    memcpy(&mallctl_entry, &mallctl_symbol, sizeof(void *));
    memcpy(&mallctlnametomib_entry, &found[0], sizeof(void *));
    memcpy(&mallctlbymib_entry, &found[1], sizeof(void *));
    struct object_search search = {.address = (uintptr_t)mallctl_symbol};
    dl_iterate_phdr(match_object, &search);
    object_start = search.start;
    object_end = search.end;
    return true;
}

enum ptreclaim_refusal ptreclaim_jemalloc_find(const char *mallctl_name) {
    static const char *const usual[] = {"mallctl", "je_mallctl"};
    const void *malloc_symbol = definition_of("malloc");
    const char *const *names = mallctl_name ? &mallctl_name : usual;
    const int name_count = mallctl_name ? 1 : 2;
    for (int i = 0; i < name_count; i++) {
        void *found = find_beside(names[i], malloc_symbol);
        if (found && adopt(names[i], found)) {
            return PTRECLAIM_ACCEPTED;
        }
    }
    // A prefixed jemalloc is called by its prefixed names, whatever malloc is; an unprefixed one
    // that malloc does not resolve to serves nobody.
    const char *elsewhere = mallctl_name ? mallctl_name : "je_mallctl";
    void *found = definition_of(elsewhere);
    if (found && adopt(elsewhere, found)) {
        return PTRECLAIM_ACCEPTED;
    }
    return PTRECLAIM_REFUSED_no_jemalloc;
}

bool ptreclaim_jemalloc_contains(const void *address) {
    return object_start <= (uintptr_t)address && (uintptr_t)address < object_end;
}

const char *ptreclaim_jemalloc_version(void) {
    const char *version = NULL;
    size_t byte_count = sizeof(version);
    if (!mallctl_entry || mallctl_entry("version", &version, &byte_count, NULL, 0) != 0) {
        return "of unknown version";
    }
    return version;
}

// ---- refusing ----------------------------------------------------------------------------------

/// The value of a size_t option, 0 where this jemalloc does not know it.
static size_t read_size(const char *name) {
    size_t value = 0, byte_count = sizeof(value);
    return mallctl_entry(name, &value, &byte_count, NULL, 0) == 0 ? value : 0;
}

/// What jemalloc itself reads at start: with 2, or if unreadable, it uncommits with PROT_NONE.
static bool kernel_overcommits(void) {
    char digit = '2';
    int fd = ptreclaim_open("/proc/sys/vm/overcommit_memory", O_RDONLY);
    if (fd < 0) {
        return false;
    }
    long count = ptreclaim_pread(fd, &digit, 1, 0);
    ptreclaim_close(fd);
    return count == 1 && (digit == '0' || digit == '1');
}

/// Whether jemalloc's configuration text asks for guards: `name:` with another value than 0.
static bool asks_for_guards(const char *text) {
    static const char *const names[] = {"san_guard_small:", "san_guard_large:"};
    for (size_t i = 0; text && i < sizeof(names) / sizeof(names[0]); i++) {
        const char *last = NULL; // of several, jemalloc takes the last
        for (const char *at = text; (at = strstr(at, names[i])); at += strlen(names[i])) {
            last = at + strlen(names[i]);
        }
        if (last && !(last[0] == '0' && (last[1] == '\0' || last[1] == ','))) {
            return true;
        }
    }
    return false;
}

/// jemalloc 5.3.0 knows the guard options and has no mallctl name for them, so its sources are
/// read: built in, the program's `malloc_conf`, /etc/malloc.conf, the environment. One that a
/// later source takes back still counts; it is a reason to stay away, and rare.
static bool configured_with_guards(void) {
    static const char *const environment[] = {"MALLOC_CONF", "JE_MALLOC_CONF", "_RJEM_MALLOC_CONF"};
    for (size_t i = 0; i < sizeof(environment) / sizeof(environment[0]); i++) {
        if (asks_for_guards(secure_getenv(environment[i]))) {
            return true;
        }
    }
    const char *built_in = NULL;
    size_t byte_count = sizeof(built_in);
    if (mallctl_entry("config.malloc_conf", &built_in, &byte_count, NULL, 0) == 0
        && asks_for_guards(built_in)) {
        return true;
    }
    char link[1024];
    long length = ptreclaim_syscall(
        SYS_readlinkat, AT_FDCWD, (long)"/etc/malloc.conf", (long)link, sizeof(link) - 1, 0, 0);
    link[length > 0 ? length : 0] = '\0';
    if (asks_for_guards(link)) {
        return true;
    }
    static const char *const symbols[] = {"malloc_conf", "je_malloc_conf", "_rjem_malloc_conf"};
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        const char *const *text = dlsym(RTLD_DEFAULT, symbols[i]);
        if (text && asks_for_guards(*text)) {
            return true;
        }
    }
    return false;
}

enum ptreclaim_refusal ptreclaim_jemalloc_check(void) {
    size_t count = ARENA_MIB;
    if (mallctlnametomib_entry("arena.0.extent_hooks", hooks_mib, &count) != 0
        || count != ARENA_MIB) {
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    count = ARENA_MIB;
    if (mallctlnametomib_entry("arena.0.dirty_decay_ms", decay_mib, &count) != 0) {
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    count = NAME_MIB;
    if (mallctlnametomib_entry("thread.arena", thread_arena_mib, &count) != 0) {
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    count = NAME_MIB;
    if (mallctlnametomib_entry("arenas.narenas", narenas_mib, &count) != 0) {
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    if (!kernel_overcommits()) {
        return PTRECLAIM_REFUSED_overcommit;
    }
    // Guards placed before the hooks would never be taken away.
    if (read_size("opt.san_guard_small") != 0 || read_size("opt.san_guard_large") != 0
        || configured_with_guards()) {
        return PTRECLAIM_REFUSED_san_guard;
    }
    return PTRECLAIM_ACCEPTED;
}

// ---- installing --------------------------------------------------------------------------------

static bool is_hooked(unsigned arena) {
    return __atomic_load_n(&hooked[arena / 64], __ATOMIC_RELAXED) >> (arena % 64) & 1;
}

static extent_hooks_t *read_hooks(unsigned arena) {
    const size_t mib[ARENA_MIB] = {hooks_mib[0], arena, hooks_mib[2]};
    extent_hooks_t *hooks = NULL;
    size_t byte_count = sizeof(hooks);
    return mallctlbymib_entry(mib, ARENA_MIB, &hooks, &byte_count, NULL, 0) == 0 ? hooks : NULL;
}

/// Arenas are looked at once: an application that sets hooks of its own later means it.
static enum ptreclaim_refusal hook_arena(unsigned arena) {
    if (arena >= MOST_ARENAS || is_hooked(arena)) {
        return PTRECLAIM_ACCEPTED;
    }
    extent_hooks_t *current = read_hooks(arena);
    if (!current) {
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    const uint64_t bit = (uint64_t)1 << (arena % 64);
    if (__atomic_fetch_or(&hooked[arena / 64], bit, __ATOMIC_RELAXED) & bit) {
        return PTRECLAIM_ACCEPTED; // another thread was first
    }
    if (current != ptreclaim_default_hooks) {
        if (current != our_hooks) {
            PTRECLAIM_COUNT(refused_application_hooks, 1);
            return PTRECLAIM_REFUSED_application_hooks;
        }
        return PTRECLAIM_ACCEPTED;
    }
    const size_t mib[ARENA_MIB] = {hooks_mib[0], arena, hooks_mib[2]};
    if (mallctlbymib_entry(mib, ARENA_MIB, NULL, NULL, &our_hooks, sizeof(our_hooks)) != 0) {
        // Not there yet; it is looked at again when it appears.
        __atomic_fetch_and(&hooked[arena / 64], ~bit, __ATOMIC_RELAXED);
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    PTRECLAIM_COUNT(arenas_hooked, 1);
    return PTRECLAIM_ACCEPTED;
}

/// jemalloc's own hooks are functions of jemalloc's own object.
static bool are_defaults(const extent_hooks_t *hooks) {
    const void *functions[sizeof(*hooks) / sizeof(void *)];
    memcpy(functions, hooks, sizeof(functions));
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (functions[i] && !ptreclaim_jemalloc_contains(functions[i])) {
            return false;
        }
    }
    return true;
}

enum ptreclaim_refusal ptreclaim_jemalloc_install(extent_hooks_t *hooks) {
    our_hooks = hooks;
    ptreclaim_default_hooks = read_hooks(0);
    if (!ptreclaim_default_hooks) {
        return PTRECLAIM_REFUSED_jemalloc_too_old;
    }
    if (!are_defaults(ptreclaim_default_hooks)) {
        PTRECLAIM_COUNT(refused_application_hooks, 1);
        return PTRECLAIM_REFUSED_application_hooks;
    }
    return hook_arena(0);
}

void ptreclaim_jemalloc_thread_started(void) {
    if (!our_hooks) {
        return;
    }
    unsigned arena = 0;
    size_t byte_count = sizeof(arena);
    if (mallctlbymib_entry(thread_arena_mib, NAME_MIB, &arena, &byte_count, NULL, 0) == 0) {
        (void)hook_arena(arena);
    }
    ptreclaim_jemalloc_hook_expected_arenas();
}

void ptreclaim_jemalloc_arena_destroyed(unsigned arena) {
    if (arena < MOST_ARENAS) {
        __atomic_fetch_and(
            &hooked[arena / 64], ~((uint64_t)1 << (arena % 64)), __ATOMIC_RELAXED);
    }
}

void ptreclaim_jemalloc_expect_arenas(void) {
    if (our_hooks) {
        __atomic_store_n(&arenas_expected, true, __ATOMIC_RELEASE);
    }
}

void ptreclaim_jemalloc_hook_expected_arenas(void) {
    if (__builtin_expect(!__atomic_load_n(&arenas_expected, __ATOMIC_RELAXED), 1)
        || !__atomic_exchange_n(&arenas_expected, false, __ATOMIC_ACQ_REL)) {
        return;
    }
    unsigned count = 0;
    size_t byte_count = sizeof(count);
    if (mallctlbymib_entry(narenas_mib, NAME_MIB, &count, &byte_count, NULL, 0) != 0) {
        return;
    }
    for (unsigned arena = 0; arena < count && arena < MOST_ARENAS; arena++) {
        if (is_hooked(arena)) {
            continue;
        }
        // Fails with EFAULT where there is no arena. `arena.<i>.initialized` would be the name for
        // it, but says what was true at the last write of "epoch".
        const size_t mib[ARENA_MIB] = {decay_mib[0], arena, decay_mib[2]};
        ssize_t decay_ms = 0;
        byte_count = sizeof(decay_ms);
        if (mallctlbymib_entry(mib, ARENA_MIB, &decay_ms, &byte_count, NULL, 0) == 0) {
            (void)hook_arena(arena);
        }
    }
}
