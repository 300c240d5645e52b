// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

extension LiveSpace {
    public func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt? {
        var page: UInt = 0
        let found = unsafe ptreclaim_first_populated(
            pagemap, showsTables, range.start, range.end, &page)
        return try wasFound(found, range) ? page : nil
    }

    public func firstTables(
        in run: SpanRun, atMost limit: Int
    ) throws(ReclaimError) -> SpanRun? {
        guard showsTables else { return run.prefix(limit) }
        var start: UInt = 0
        var end: UInt = 0
        let found = unsafe ptreclaim_first_tables(
            pagemap, run.start, run.end, limit, &start, &end)
        return try wasFound(found, run.range) ? run.prefix(upTo: end).suffix(from: start) : nil
    }

    public func mapping(at address: UInt) throws(ReclaimError) -> Mapping {
        var vma = ptreclaim_vma()
        let result = unsafe ptreclaim_find_vma(maps, address, &vma)
        guard result == 0 else {
            throw ReclaimError(
                .lookFailed, errno: Int32(-result),
                range: AddressRange(start: address, end: address))
        }
        let range = AddressRange(start: vma.start, end: vma.end)
        let kind: Mapping.Kind =
            switch Int(vma.kind) {
            case Int(PTRECLAIM_VMA_HOLE.rawValue): .hole
            case Int(PTRECLAIM_VMA_ANONYMOUS.rawValue): .anonymous
            case Int(PTRECLAIM_VMA_SHARED.rawValue): .shared
            case Int(PTRECLAIM_VMA_PRIVATE_FILE.rawValue): .privateFile
            default: .special
            }
        let mapping = Mapping(range: range, kind: kind)
        return servable == nil
            ? mapping.part(at: address, stackAddress: stackAddress)
            : partLeftAlone(mapping, address)
    }

    public func hidesTables(at address: UInt) throws(ReclaimError) -> Bool {
        let flags = ptreclaim_vma_flags(address)
        guard flags >= 0 else {
            throw ReclaimError(
                .lookFailed, errno: Int32(-flags), range: AddressRange(start: address, end: address)
            )
        }
        return flags & Int(PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED) != 0
    }

    private func wasFound(_ answer: Int, _ range: AddressRange) throws(ReclaimError) -> Bool {
        guard answer >= 0 else {
            throw ReclaimError(.lookFailed, errno: Int32(-answer), range: range)
        }
        return answer > 0
    }
}
