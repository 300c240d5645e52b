// SPDX-License-Identifier: Apache-2.0

#include "ptreclaim.h"

// The layout is public: programs that were compiled against it keep running.
_Static_assert(offsetof(struct ptreclaim_report, tables_examined) == 8, "public layout");
_Static_assert(offsetof(struct ptreclaim_report, duration_ns) == 40, "public layout");
_Static_assert(offsetof(struct ptreclaim_report, kept) == 48, "public layout");
_Static_assert(sizeof(struct ptreclaim_report) == 192, "public layout of the first version");
