// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

private let flags = TestMemory.anonymous

/// Kinds of memory, and what becomes of their empty tables.
extension BadInputTests {
    /// A kind of memory: three spans of it, the first and the last of them empty tables, and a
    /// table with pages between them. What becomes of the empty ones, and how the VMA is made.
    struct Kind: Sendable, CustomTestStringConvertible {
        let name: String
        let owned: String
        let shared: String
        let make: @Sendable (TestMemory) throws -> Void
        var testDescription: String { name }

        init(
            _ name: String, owned: String = "freed", shared: String = "freed",
            _ make: @escaping @Sendable (TestMemory) throws -> Void
        ) {
            self.name = name
            self.owned = owned
            self.shared = shared
            self.make = make
        }
    }

    static func emptyFullEmpty(_ memory: TestMemory, keepsContents: Bool = false) throws {
        try memory.makeEmptyTables(0..<1, keepsContents: keepsContents)
        memory.write(1)
        try memory.makeEmptyTables(2..<3, keepsContents: keepsContents)
    }

    private static func ofFile(
        _ memory: TestMemory, _ how: Int32, _ open: () -> Int32
    ) throws {
        let file = open()
        try check(Int(file))
        defer { _ = ptreclaim_close(file) }
        try memory.map(nil, how | MAP_NORESERVE, file: file)
        try emptyFullEmpty(memory, keepsContents: how == MAP_SHARED)
    }

    /// A regular file, unlinked, of three spans.
    private static func regularFile() -> Int32 {
        var path = Array("/var/tmp/ptreclaim-XXXXXX".utf8CString)
        // Sound: mkstemp changes the six characters and nothing else.
        let file = unsafe path.withUnsafeMutableBufferPointer {
            guard let name = $0.baseAddress else { return Int32(-1) }
            let file = unsafe mkstemp(name)
            if file >= 0 { unsafe unlink(name) }
            return file
        }
        return file >= 0 && ftruncate(file, 6 << 20) == 0 ? file : -errno
    }

    static let kinds: [Kind] = [
        Kind("anonymous") { memory in
            try memory.map()
            try emptyFullEmpty(memory)
        },
        Kind("anonymous, PROT_NONE") { memory in
            try memory.map()
            try emptyFullEmpty(memory)
            try memory.protect(nil, PROT_NONE)
        },
        Kind("anonymous, MAP_GROWSDOWN") { memory in
            try memory.map(nil, flags | MAP_GROWSDOWN)
            try emptyFullEmpty(memory)
        },
        Kind("a private memfd", shared: "privateFile") { memory in
            try ofFile(memory, MAP_PRIVATE) { ptreclaim_memfd(6 << 20) }
        },
        Kind("a shared memfd") { memory in
            try ofFile(memory, MAP_SHARED) { ptreclaim_memfd(6 << 20) }
        },
        Kind("shared anonymous memory") { memory in
            try memory.map(nil, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE)
            try emptyFullEmpty(memory, keepsContents: true)
        },
        Kind("a private mapping of a regular file", shared: "privateFile") { memory in
            try ofFile(memory, MAP_PRIVATE, regularFile)
        },
        // Bytes that no write-back has reached.
        Kind("a shared mapping of a regular file") { memory in
            try ofFile(memory, MAP_SHARED, regularFile)
        },
        // Anonymous to the kernel, a file by its name.
        Kind("/dev/zero, private", shared: "privateFile") { memory in
            try ofFile(memory, MAP_PRIVATE) { unsafe ptreclaim_open("/dev/zero", O_RDWR) }
        },
    ]

    /// Plays `kind`, and checks that the report is as it says, and true.
    static func play(_ kind: Kind, _ access: Access) throws {
        let memory = TestMemory(3)
        try kind.make(memory)
        let before = try memory.states()
        say(before == [.empty, .populated, .empty], "\(kind.name): \(before)")
        let answer = access == .owned ? kind.owned : kind.shared
        let told = try ptReclaim(range: memory.range, access: access).told
        say(told == [answer: 2, "populated": 1], "\(kind.name), \(access): \(told)")
        let after = try memory.states()
        say(
            after == (answer == "freed" ? [.absent, .populated, .absent] : before),
            "\(kind.name), \(access): \(after)")
        try memory.protect(nil, PROT_READ | PROT_WRITE)
        say(memory.changedBytes() == [], "\(kind.name), \(access): bytes have changed")
    }

    @Test(arguments: kinds, Weather.accesses)
    func eachKindOfMemoryHasItsAnswer(kind: Kind, access: Access) throws {
        try Self.play(kind, access)
    }
}
