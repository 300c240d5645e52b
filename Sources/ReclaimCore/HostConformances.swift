// SPDX-License-Identifier: Apache-2.0

// What needs arrays, and so cannot be compiled into an allocator's hook.
#if !SHIM_SINGLE_MODULE
    extension Backend: CaseIterable {}
    extension KeptReason: CaseIterable {}
#endif
