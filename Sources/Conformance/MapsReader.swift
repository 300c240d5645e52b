// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// The mappings of the field as smaps shows them.
struct MapsReader {
    struct Entry {
        var vma: ObservedVMA
        /// Whether it maps a file; then a page that is nobody's own is the file's.
        var isFile: Bool
    }

    private let file: Descriptor
    /// Kept, so that looking allocates nothing after a while.
    private var bytes: [UInt8] = []
    private(set) var entries: [Entry] = []
    private var isPastField = false

    init(_ file: Descriptor) { self.file = file }

    /// Reads in small pieces up to the end of the field: what lies above it, and the tables that
    /// smaps would walk for it, are most of the file.
    mutating func read() throws(RunnerError) {
        bytes.removeAll(keepingCapacity: true)
        entries.removeAll(keepingCapacity: true)
        isPastField = false
        var offset = 0
        var parsed = 0
        while !isPastField {
            let count = try file.append(to: &bytes, atMost: 4096, offset: offset)
            guard count > 0 else { return }
            offset += count
            parsed = parse(from: parsed)
        }
    }

    /// Takes over all complete lines from `start` on; returns where the first incomplete one is.
    private mutating func parse(from start: Int) -> Int {
        var line = start
        while let end = bytes[line...].firstIndex(of: newline) {
            switch bytes[line] {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"):
                header(line..<end)
            case UInt8(ascii: "V"): flags(line..<end)
            default: break
            }
            line = end + 1
            if isPastField { break }
        }
        return line
    }

    private var isInField = false

    /// `100000000000-100000001000 rw-p 00000000 00:00 0`
    private mutating func header(_ line: Range<Int>) {
        var at = line.lowerBound
        let start = hexadecimal(&at)
        at += 1
        let end = hexadecimal(&at)
        isPastField = start >= Field.range.end
        isInField = !isPastField && start >= Field.range.start
        guard isInField else { return }
        var protection: VMA.Protection = []
        if bytes[at + 1] == UInt8(ascii: "r") { protection.insert(.read) }
        if bytes[at + 2] == UInt8(ascii: "w") { protection.insert(.write) }
        if bytes[at + 3] == UInt8(ascii: "x") { protection.insert(.execute) }
        let isShared = bytes[at + 4] == UInt8(ascii: "s")
        at += 6
        _ = hexadecimal(&at)  // offset
        at += 7  // " 00:00 "
        while at < line.upperBound, bytes[at - 1] != UInt8(ascii: " ") { at += 1 }  // long majors
        entries.append(
            Entry(
                vma: ObservedVMA(
                    range: AddressRange(start: start, end: end), protection: protection,
                    isShared: isShared, attributes: []),
                isFile: bytes[at] != UInt8(ascii: "0")))
    }

    /// `VmFlags: rd wr mr mw me ac sd`
    private mutating func flags(_ line: Range<Int>) {
        guard isInField, !entries.isEmpty else { return }
        var attributes: VMA.Attributes = []
        var at = line.lowerBound + 9
        while at + 1 < line.upperBound {
            let word = UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1])
            if let attribute = Self.attribute(word) { attributes.insert(attribute) }
            at += 3
        }
        entries[entries.count - 1].vma.attributes = attributes
    }

    private static func attribute(_ word: UInt16) -> VMA.Attributes? {
        switch word {
        case word16("lo"): .locked
        case word16("nh"): .noHugePage
        case word16("dd"): .dontDump
        case word16("um"): .missingRegistered
        case word16("uw"): .writeProtectRegistered
        case word16("hg"): .hugePage
        case word16("dc"): .dontFork
        case word16("ac"): .accounted
        case word16("nr"): .noReserve
        case word16("lf"): .lockedOnFault
        case word16("gu"): .mayHaveGuards
        default: nil
        }
    }

    @inline(__always)
    private static func word16(_ text: StaticString) -> UInt16 {
        unsafe UInt16(text.utf8Start[0]) << 8 | UInt16(text.utf8Start[1])
    }

    private func hexadecimal(_ at: inout Int) -> UInt {
        var number: UInt = 0
        while at < bytes.count {
            let byte = bytes[at]
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"):
                number = number << 4 | UInt(byte - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"):
                number = number << 4 | UInt(byte - UInt8(ascii: "a") + 10)
            default: return number
            }
            at += 1
        }
        return number
    }
}

private let newline = UInt8(ascii: "\n")
