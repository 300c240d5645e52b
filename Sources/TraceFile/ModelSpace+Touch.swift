// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

extension ModelSpace {
    /// Writes every page of `range`.
    func touch(_ range: AddressRange) throws(ModelError) {
        for address in stride(from: range.start, to: range.end, by: Int(PageGeometry.pageByteCount))
        where entry(at: address) == nil {
            try write(1, at: address)
        }
    }
}
