// SPDX-License-Identifier: Apache-2.0
//
// A debugger that stops one thread of a program, and no other, again and again.
//
//   thread-debugger PID NAME MILLISECONDS
//
// Until the program ends. Prints how often. Exit status: 0, 1 there was no such thread, 2 usage.

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

static void pause_for(long milliseconds) {
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
}

/// The thread of `pid` that calls itself `name`; 0: none.
static int find(const char *pid, const char *name) {
    char path[300];
    snprintf(path, sizeof(path), "/proc/%s/task", pid);
    DIR *tasks = opendir(path);
    int found = 0;
    for (struct dirent *entry; tasks && !found && (entry = readdir(tasks));) {
        char comm[32] = "";
        snprintf(path, sizeof(path), "/proc/%s/task/%s/comm", pid, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file && fgets(comm, sizeof(comm), file)) {
            comm[strcspn(comm, "\n")] = 0;
            found = strcmp(comm, name) == 0 ? atoi(entry->d_name) : 0;
        }
        if (file) {
            fclose(file);
        }
    }
    if (tasks) {
        closedir(tasks);
    }
    return found;
}

int main(int count, char **arguments) {
    if (count != 4) {
        return 2;
    }
    const long milliseconds = atol(arguments[3]);
    unsigned long stops = 0;
    srandom(1);
    for (int tries = 0; tries < 100; tries++) {
        const int thread = find(arguments[1], arguments[2]);
        if (!thread || ptrace(PTRACE_SEIZE, thread, 0, 0) != 0) {
            pause_for(stops ? 1 : 10);
            continue;
        }
        tries = 0;
        int status;
        if (ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0 && waitpid(thread, &status, __WALL) == thread
            && WIFSTOPPED(status)) {
            stops++;
            pause_for(milliseconds);
            ptrace(PTRACE_DETACH, thread, 0, 0);
        }
        pause_for(1 + random() % 40);
    }
    printf("stops: %lu\n", stops);
    return stops ? 0 : 1;
}
