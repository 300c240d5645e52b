// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
public import CReclaim

// The door between the C interface and the core; see Shim/Library.

/// The call. Returns 0 and fills `report`, or an errno.
@c(ptreclaim_core_call)
public func coreCall(
    _ address: UInt, _ byteCount: UInt, _ access: UInt32,
    _ report: UnsafeMutablePointer<ptreclaim_report>
) -> Int32 {
    let (end, overflow) = address.addingReportingOverflow(byteCount)
    guard !overflow, let access = ReclaimAccess(rawValue: UInt8(access)) else { return EINVAL }
    do throws(ReclaimError) {
        let result = try ReclaimCall.run(from: address, upTo: end, access: access)
        unsafe report.pointee.backend = UInt32(result.backend?.rawValue ?? 0)
        unsafe report.pointee.tables_examined = UInt64(result.tablesExamined)
        unsafe report.pointee.tables_freed = UInt64(result.tablesFreed)
        unsafe report.pointee.vm_pte_before = result.vmPTEBefore.map { Int64($0) } ?? -1
        unsafe report.pointee.vm_pte_after = result.vmPTEAfter.map { Int64($0) } ?? -1
        unsafe report.pointee.duration_ns = result.durationNanoseconds
        unsafe withUnsafeMutableBytes(of: &report.pointee.kept) { bytes in
            let counts = unsafe bytes.assumingMemoryBound(to: UInt64.self)
            for number in 0..<UInt8(PTRECLAIM_KEPT_REASONS) {
                guard let reason = KeptReason(rawValue: number) else { continue }
                unsafe counts[Int(number)] = UInt64(result.kept[reason])
            }
        }
        return 0
    } catch {
        return error.errno
    }
}

/// The spelling of a reason, or NULL.
@c(ptreclaim_core_kept_name)
public func coreKeptName(_ number: UInt32) -> UnsafePointer<CChar>? {
    guard number < PTRECLAIM_KEPT_REASONS, let reason = KeptReason(rawValue: UInt8(number)) else {
        return nil
    }
    // Sound: a static string's bytes live for ever, and end with a zero.
    return unsafe UnsafeRawPointer(reason.name.utf8Start).assumingMemoryBound(to: CChar.self)
}
