// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// Where everything is played: 1 TiB in which nothing else is mapped, of which two windows are
/// looked at page by page.
///
///     base          A - 8 MiB | A | A + 8 MiB        B - 8 MiB | B | B + 8 MiB
///     16 TiB           base + 3 GiB: PMD tables         base + 512 GiB: PUD tables
///                      meet here                        meet here
public enum Field {
    static let base: UInt = 1 << 44
    public static let range = AddressRange(start: base, end: base + 1 << 40)

    /// Two boundaries, and what is near them.
    public enum Landmark: String, CaseIterable, Sendable {
        case pmdTables = "A"
        case pudTables = "B"

        /// A multiple of what a PMD table maps, and of what a PUD table maps.
        public var address: UInt {
            switch self {
            case .pmdTables: Field.base + 3 * PageGeometry.pmdTableByteCount
            case .pudTables: Field.base + PageGeometry.pudTableByteCount
            }
        }

        public var window: AddressRange {
            AddressRange(start: address - halfWindow, end: address + halfWindow)
        }
    }

    static let pagesPerHalf = 2048
    private static var halfWindow: UInt { UInt(pagesPerHalf) * PageGeometry.pageByteCount }

    public static let windows = Landmark.allCases.map(\.window)
    public static let pageCount = 4 * pagesPerHalf

    /// The pages of the windows, counted through: the address of one, and back.
    static func address(ofPage index: Int) -> UInt {
        let window = windows[index / (2 * pagesPerHalf)]
        return window.start + UInt(index % (2 * pagesPerHalf)) * PageGeometry.pageByteCount
    }

    /// Nil outside the windows.
    static func page(at address: UInt) -> Int? {
        for (index, window) in windows.enumerated()
        where window.start <= address && address < window.end {
            return index * 2 * pagesPerHalf
                + Int((address - window.start) / PageGeometry.pageByteCount)
        }
        return nil
    }

    /// `B+491`: in pages from the nearer landmark.
    public static func name(_ address: UInt) -> String {
        let landmark: Landmark =
            address <= Landmark.pmdTables.window.end ? .pmdTables : .pudTables
        let distance = Int(bitPattern: address &- landmark.address)
        let pages = distance / Int(PageGeometry.pageByteCount)
        return "\(landmark.rawValue)\(pages < 0 ? "" : "+")\(pages)"
    }

    public static func name(_ range: AddressRange) -> String {
        "\(name(range.start))..\(name(range.end))"
    }

    /// The address that `name` names; nil where it names none inside the field.
    static func address(named text: some StringProtocol) -> UInt? {
        guard let first = text.first, let landmark = Landmark(rawValue: String(first)),
            let pages = text.count == 1 ? 0 : Int(text.dropFirst()), abs(pages) <= 1 << 28
        else { return nil }
        let distance = pages * Int(PageGeometry.pageByteCount)
        let address = landmark.address &+ UInt(bitPattern: distance)
        return range.start <= address && address <= range.end ? address : nil
    }

    static func range(named text: some StringProtocol) -> AddressRange? {
        guard let dots = text.firstRange(of: ".."),
            let start = address(named: text[..<dots.lowerBound]),
            let end = address(named: text[dots.upperBound...]), start <= end
        else { return nil }
        return AddressRange(start: start, end: end)
    }
}
