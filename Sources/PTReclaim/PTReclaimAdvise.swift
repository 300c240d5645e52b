// SPDX-License-Identifier: Apache-2.0

internal import Glibc
public import ReclaimCore

/// What the preload library's own thread is to do about a range.
public enum ReclaimAdvice: UInt32, Sendable {
    /// Serve it where only marked memory is served (`PTRECLAIM_RANGES=marked`), and again where it
    /// was switched off.
    case on = 1
    /// Leave it alone: its tables are not looked at, not fenced and not freed.
    case off = 2
    /// Free its empty tables now, and return when that is done.
    case now = 3
}

/// Tells the preload library, in its modes `madvise`, `scan` and `hooks+scan`, what to do about
/// `range`.
///
/// A mark stays with its memory however that is split or grows in its place, and ends where it is
/// unmapped, replaced or moved. `.on` and `.now` take the spans of 2 MiB that lie wholly inside the
/// range, `.off` those that it touches.
/// `.now` frees what the library may free by itself, memory that was mapped through libc; with
/// `ptReclaim(range:access:)` the caller vouches for the mapping instead.
///
/// For any thread, any number at once; not for signal handlers, nor for an allocator's hooks.
///
/// - Parameters:
///   - range: addresses in bytes, half-open. The start is page-aligned.
///   - advice: what to do about it.
/// - Throws: `.invalidRange` with EINVAL: the start is not page-aligned, or the end is above user
///   space (2^47). `.unsupported` with EOPNOTSUPP: the preload library is not in this process, or
///   has no such mode here. `.lookFailed` with ENOMEM: no memory to remember it, or with EAGAIN:
///   `.now` has no thread.
///
/// The corresponding kernel calls are the madvise options of the proposals on linux-mm of June and
/// July 2024, never merged.
public func ptReclaimAdvise(
    range: Range<UInt>, _ advice: ReclaimAdvice
) throws(ReclaimError) {
    // Sound: looked up by its name in ptreclaim.h, which gives this type; never unloaded.
    typealias Function = @convention(c) (UInt, UInt, UInt32) -> Int32
    guard let symbol = unsafe dlsym(UnsafeMutableRawPointer(bitPattern: 0), "ptreclaim_advise")
    else { throw failure(EOPNOTSUPP, range) }
    let function = unsafe unsafeBitCast(symbol, to: Function.self)
    let length = range.upperBound - range.lowerBound
    if function(range.lowerBound, length, advice.rawValue) != 0 { throw failure(errno, range) }
}

private func failure(_ errno: Int32, _ range: Range<UInt>) -> ReclaimError {
    let code: ReclaimError.Code =
        switch errno {
        case EINVAL: .invalidRange
        case EOPNOTSUPP: .unsupported
        default: .lookFailed
        }
    return ReclaimError(
        code, errno: errno, range: AddressRange(start: range.lowerBound, end: range.upperBound))
}
