// SPDX-License-Identifier: Apache-2.0
//
// Memory that a program maps by itself: what is in each page is known, and the mappings change all
// the time, so that a fence or a table freed at the wrong moment shows in a page.

#ifndef ALLOCATOR_TORTURE_MAPPINGS_H
#define ALLOCATOR_TORTURE_MAPPINGS_H

#include <stdbool.h>
#include <stdint.h>

enum { MOST_MAPPERS = 64 };

/// Maps what `count` threads will work on. False: no memory.
bool prepare_mappings(unsigned count);

/// One step of a thread on its areas: on mappings that change, or on empty spans that stay.
void change_mappings(unsigned mapper, uint64_t *state);
void use_empty_spans(unsigned mapper, uint64_t *state);

/// What a forked child can do: look at every page that no thread was busy with, then change
/// mappings of its own copy.
void use_mappings_as_child(uint64_t *state);

/// Looks at every page. Precondition: no thread works on them any more.
void check_mappings(void);

/// Prints a line for each kind of step.
void print_mapping_counts(void);

#endif
