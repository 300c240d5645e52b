// SPDX-License-Identifier: Apache-2.0

/// One rule of the model turned around, so that a test can show that the comparison with a kernel
/// would have found it.
public enum ModelMistake: String, CaseIterable, Sendable {
    /// `MADV_PT_RECLAIM` takes a table that holds nothing but markers.
    case markersCountAsNone
    /// `MADV_PT_RECLAIM` takes a table whose span crosses a VMA boundary.
    case crossVMATableFreed
    /// munmap frees a table that reaches below the range into the VMA before.
    case floorIgnored
    /// munmap frees a table that reaches above the range into the VMA behind.
    case ceilingIgnored
    /// munmap never frees PMD tables.
    case pmdTablesKept
    /// munmap never frees PUD tables.
    case pudTablesKept
    /// A huge page has no deposited table.
    case depositLost
    /// A huge page that is split gets a second table.
    case splitAllocates
    /// DONTNEED over less than a span frees the table, too.
    case partialZapFreesTable
    /// DONTNEED never frees a table, or always, against the kernel's habit.
    case reclaimTurnedAround
    /// mremap never moves a table as a whole.
    case tablesNeverMove
    /// DONTNEED removes guard markers.
    case guardsZapped
    /// DONTNEED removes uffd-wp markers of files.
    case fileMarkersZapped
    /// A read maps a page of its own in place of the page of zeros.
    case noZeroPage
    /// A fault maps nothing around it.
    case noFaultAround
    /// A child gets no empty tables.
    case forkSkipsEmptyTables
    /// A VMA that could merge with both neighbours joins only the one before.
    case mergesOnlyBefore
    /// mprotect does not split a huge page that it changes in part.
    case protectKeepsHugePage
    /// DONTNEED with a hole in the range does nothing.
    case holeStopsZap
}
