// SPDX-License-Identifier: Apache-2.0

public import PageTableModel
internal import ReclaimCore

/// Operations as lines of text, to be printed, pasted into a test and played again:
///
///     mmap A-512..B+1 anonymous rw noreserve
///     mremap B-512..B+69 to B-2048..B-1467 fixed dontunmap
///     write A-673 15
public struct OperationTextError: Error, Equatable, CustomStringConvertible {
    public let line: Int
    public let text: String
    public var description: String { "line \(line) is no operation: \(text)" }
}

extension [Operation] {
    /// - Parameter text: one operation a line; empty lines and what follows a `#` do not count.
    public init(text: String) throws(OperationTextError) {
        self = []
        // CR LF is one character.
        let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
        for (index, line) in lines.enumerated() {
            let words = line.prefix { $0 != "#" }.split { $0 == " " || $0 == "\t" }
            guard !words.isEmpty else { continue }
            guard let operation = Operation(words: words) else {
                throw OperationTextError(line: index + 1, text: String(line))
            }
            append(operation)
        }
    }

    public var text: String { map { $0.text + "\n" }.joined() }
}

extension Operation {
    public var text: String {
        switch self {
        case .mmap(let range, let kind, let protection, let flags):
            (["mmap", Field.name(range), kind.text, protection.text] + flags.words)
                .joined(separator: " ")
        case .munmap(let range): "munmap \(Field.name(range))"
        case .mremap(let range, let byteCount, let target):
            "mremap \(Field.name(range)) to "
                + Self.targetText(target, of: range, byteCount: byteCount)
        case .mprotect(let range, let protection):
            "mprotect \(Field.name(range)) \(protection.text)"
        case .madvise(let range, let advice): "madvise \(Field.name(range)) \(advice)"
        case .mlock(let range, let onFault):
            "mlock \(Field.name(range))" + (onFault ? " onfault" : "")
        case .munlock(let range): "munlock \(Field.name(range))"
        case .read(let address): "read \(Field.name(address))"
        case .write(let address, let byte): "write \(Field.name(address)) \(byte)"
        case .fork: "fork"
        case .register(let range, let mode): "register \(Field.name(range)) \(mode.rawValue)"
        case .unregister(let range): "unregister \(Field.name(range))"
        case .writeProtect(let range, let isOn):
            "writeprotect \(Field.name(range)) \(isOn ? "on" : "off")"
        case .reclaim(let range): "reclaim \(Field.name(range))"
        }
    }

    /// The first word of its text, or the advice, for counting.
    public var kindName: String {
        switch self {
        case .mmap: "mmap"
        case .munmap: "munmap"
        case .mremap: "mremap"
        case .mprotect: "mprotect"
        case .madvise(_, let advice): "\(advice)"
        case .mlock: "mlock"
        case .munlock: "munlock"
        case .read: "read"
        case .write: "write"
        case .fork: "fork"
        case .register: "register"
        case .unregister: "unregister"
        case .writeProtect: "writeprotect"
        case .reclaim: "reclaim"
        }
    }

    private static func targetText(
        _ target: Target, of range: AddressRange, byteCount: UInt
    ) -> String {
        func to(_ start: UInt) -> String {
            "\(Field.name(start))..\(Field.name(start + byteCount))"
        }
        return switch target {
        case .inPlace: to(range.start)
        case .fixed(let start): "\(to(start)) fixed"
        case .keepingSource(let start): "\(to(start)) fixed dontunmap"
        }
    }

    init?(words: [Substring]) {
        let rest = Array(words.dropFirst())
        if words[0] == "fork" {
            guard rest.isEmpty else { return nil }
            self = .fork
            return
        }
        guard let place = rest.first else { return nil }
        let options = Array(rest.dropFirst())
        if words[0] == "read" || words[0] == "write" {
            guard let address = Field.address(named: place) else { return nil }
            self.init(touch: words[0], address: address, options: options)
        } else {
            guard let range = Field.range(named: place) else { return nil }
            self.init(verb: words[0], range: range, options: options)
        }
    }

    private init?(touch verb: Substring, address: UInt, options: [Substring]) {
        switch (verb, options.count) {
        case ("read", 0): self = .read(address)
        case ("write", 1):
            guard let byte = UInt8(options[0]) else { return nil }
            self = .write(address, byte)
        default: return nil
        }
    }

    private init?(verb: Substring, range: AddressRange, options: [Substring]) {
        switch (verb, options.count) {
        case ("mmap", 2...):
            guard let kind = VMA.Kind(text: options[0]),
                let protection = VMA.Protection(text: options[1]),
                let flags = MapFlags(words: options.dropFirst(2))
            else { return nil }
            self = .mmap(range, kind, protection, flags)
        case ("mremap", 2...):
            guard let (byteCount, target) = Self.target(options, of: range) else { return nil }
            self = .mremap(range, byteCount: byteCount, target)
        case ("mprotect", 1):
            guard let protection = VMA.Protection(text: options[0]) else { return nil }
            self = .mprotect(range, protection)
        case ("madvise", 1):
            guard let advice = Advice.allCases.first(where: { "\($0)" == options[0] })
            else { return nil }
            self = .madvise(range, advice)
        case ("register", 1):
            guard let mode = UserfaultMode(rawValue: String(options[0])) else { return nil }
            self = .register(range, mode)
        case ("munmap", 0): self = .munmap(range)
        case ("mlock", 0): self = .mlock(range, onFault: false)
        case ("mlock", 1) where options[0] == "onfault": self = .mlock(range, onFault: true)
        case ("munlock", 0): self = .munlock(range)
        case ("unregister", 0): self = .unregister(range)
        case ("writeprotect", 1) where options[0] == "on": self = .writeProtect(range, true)
        case ("writeprotect", 1) where options[0] == "off": self = .writeProtect(range, false)
        case ("reclaim", 0): self = .reclaim(range)
        default: return nil
        }
    }

    private static func target(
        _ options: [Substring], of range: AddressRange
    ) -> (UInt, Target)? {
        guard options[0] == "to", let to = Field.range(named: options[1]) else { return nil }
        switch options.dropFirst(2) {
        case [] where to.start == range.start: return (to.byteCount, .inPlace)
        case ["fixed"]: return (to.byteCount, .fixed(to.start))
        case ["fixed", "dontunmap"]: return (to.byteCount, .keepingSource(to.start))
        default: return nil
        }
    }
}

extension VMA.Kind {
    var text: String {
        switch self {
        case .anonymousPrivate: "anonymous"
        case .shared(let file): "shared:\(file)"
        case .privateFile(let file): "private:\(file)"
        case .sharedAnonymous: "shared"
        case .hugetlb: "hugetlb"
        case .special: "special"
        }
    }

    init?(text: Substring) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        if parts.count == 1 {
            switch text {
            case "anonymous": self = .anonymousPrivate
            case "shared": self = .sharedAnonymous
            case "hugetlb": self = .hugetlb
            default: return nil
            }
            return
        }
        guard parts.count == 2, let file = Int(parts[1]), 0..<Player.fileCount ~= file
        else { return nil }
        switch parts[0] {
        case "shared": self = .shared(file: file)
        case "private": self = .privateFile(file: file)
        default: return nil
        }
    }
}

extension VMA.Protection {
    private static let letters: [(Character, VMA.Protection)] = [
        ("r", .read), ("w", .write), ("x", .execute),
    ]

    var text: String {
        isEmpty ? "none" : String(Self.letters.filter { contains($0.1) }.map(\.0))
    }

    init?(text: Substring) {
        self = .none
        guard text != "none" else { return }
        for letter in text {
            guard let known = Self.letters.first(where: { $0.0 == letter }) else { return nil }
            insert(known.1)
        }
    }
}

extension Operation.MapFlags {
    private static let names: [(String, Operation.MapFlags)] = [
        ("noreserve", .noReserve), ("populate", .populate), ("noreplace", .noReplace),
    ]

    var words: [String] { Self.names.filter { contains($0.1) }.map(\.0) }

    init?(words: ArraySlice<Substring>) {
        self = []
        for word in words {
            guard let known = Self.names.first(where: { $0.0 == word }) else { return nil }
            insert(known.1)
        }
    }
}
