// SPDX-License-Identifier: Apache-2.0

// A Swift server that keeps its own runtime, Foundation and concurrency busy, in a process that has
// the preload library in it, or has not.
//
//   swift-server serve DIRECTORY MILLISECONDS
//       Works, gives the library so long to come by, writes DIRECTORY/ready, ends when there is
//       DIRECTORY/go.
//   swift-server advise
//       ptReclaimAdvise, where the library has a thread that does not come by itself, or none.
// Exit status 0: every answer and every byte was right.

import Foundation
import Glibc
import PTReclaim

let clientCount = 4
let requestCount = 20

/// What is kept for a while: little and much.
struct Piece {
    private let numbers: [UInt64]
    private let bytes: Data

    init(_ key: Int, _ random: inout Random) {
        numbers = (0..<64).map { UInt64(key &* $0) }
        bytes = Data(repeating: UInt8(key & 0x7f) + 1, count: (1 + Int(random.next() % 4)) << 16)
    }

    func isRight(for key: Int) -> Bool {
        let page = stride(from: 0, to: bytes.count, by: 4096)
        return numbers.indices.allSatisfy { numbers[$0] == UInt64(key &* $0) }
            && page.allSatisfy { bytes[$0] == UInt8(key & 0x7f) + 1 }
    }
}

/// Pieces that were made, kept by many tasks, and dropped again.
actor Store {
    private var pieces: [Int: Piece] = [:]

    func keep(_ piece: Piece, as key: Int) { pieces[key] = piece }
    func drop(_ key: Int) -> Piece? { pieces.removeValue(forKey: key) }
    var count: Int { pieces.count }
}

/// Returns how many pieces were not what they were.
func churn(_ store: Store, seed: Int) async -> Int {
    await withTaskGroup(of: Int.self) { group in
        for task in 0..<8 {
            group.addTask {
                var random = Random(state: UInt64(seed * 8 + task))
                let keys = (0..<150).map { task << 8 | $0 }
                for key in keys { await store.keep(Piece(key, &random), as: key) }
                var wrong = 0
                for key in keys.shuffled() {
                    wrong += await store.drop(key)?.isRight(for: key) == true ? 0 : 1
                }
                return wrong
            }
        }
        return await group.reduce(0, +)
    }
}

/// Asks from a thread of its own. Returns how many answers were wrong.
func askAll(_ server: Server, client: Int) async -> Int {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread {
            let connection = server.connect()
            var wrong = 0
            for number in 0..<requestCount {
                let request = Request(seed: UInt64(client << 16 | number), count: 100 + number)
                guard let line = try? JSONEncoder().encode(request) else { continue }
                connection.write(line)
                let answer = connection.readLine().flatMap {
                    try? JSONDecoder().decode(Answer.self, from: $0)
                }
                wrong += answer == Answer(to: request) ? 0 : 1
            }
            connection.close()
            continuation.resume(returning: wrong)
        }
    }
}

/// The call, again and again, on memory that the library may be looking at as well.
func callBeside(_ memory: OwnMemory) async throws -> Int {
    var left = 0
    for _ in 0..<20 {
        memory.makeEmpty()
        let report = try ptReclaim(range: memory.range)
        // What the library's fence was up at stays for its thread.
        left += report.kept[.absent] + report.tablesFreed + report.kept[.registered] == 16 ? 0 : 1
        try await Task.sleep(for: .milliseconds(5))
    }
    return left
}

func serve(in directory: String, patience: Int) async throws {
    let server = try Server()
    let shared = OwnMemory(spanCount: 16)
    let left = OwnMemory(spanCount: 32)
    let store = Store()
    Thread.detachNewThread { server.serve(clientCount) }
    async let called = callBeside(shared)
    var wrong = 0
    await withTaskGroup(of: Int.self) { group in
        for client in 0..<clientCount { group.addTask { await askAll(server, client: client) } }
        for seed in 0..<2 { wrong += await churn(store, seed: seed) }
        wrong += await group.reduce(0, +)
    }
    print("wrong: \(wrong)")
    print("still stored: \(await store.count)")
    print("calls that left a table: \(try await called)")
    // Nobody calls for these: the library's thread comes by in time, or there is none.
    for _ in 0..<patience / 10 where left.tableCount > 0 {
        try await Task.sleep(for: .milliseconds(10))
    }
    print("tables left alone: \(left.tableCount)")
    print("freed by a call: \(try ptReclaim(range: left.range).tablesFreed)")
    let files = FileManager.default
    _ = files.createFile(atPath: directory + "/ready", contents: Data("ready".utf8))
    while !files.fileExists(atPath: directory + "/go") {
        try await Task.sleep(for: .milliseconds(20))
    }
    exit(wrong == 0 ? 0 : 1)
}

/// What a call comes to: "done", or the errno that it throws.
func outcome(_ range: Range<UInt>, _ advice: ReclaimAdvice) -> String {
    do {
        try ptReclaimAdvise(range: range, advice)
        return "done"
    } catch {
        return "\(error.code), errno \(error.errno)"
    }
}

func advise() {
    let memory = OwnMemory(spanCount: 8)
    let range = memory.range
    print("tables: \(memory.tableCount)")
    print("off: \(outcome(range, .off))")
    print("now, while off: \(outcome(range, .now))")
    print("tables while off: \(memory.tableCount)")
    print("on: \(outcome(range, .on))")
    print("now: \(outcome(range, .now))")
    print("tables after now: \(memory.tableCount)")
    print("not a page: \(outcome(range.lowerBound + 1..<range.upperBound, .on))")
    print("above user space: \(outcome(range.lowerBound..<(1 << 47) + 4096, .off))")
    memory.makeEmpty()
    do {
        let report = try ptReclaim(range: range, access: .owned)
        print("freed by a call: \(report.tablesFreed)")
    } catch {
        print("freed by a call: \(error)")
    }
}

let arguments = CommandLine.arguments
switch (arguments.dropFirst().first, arguments.count) {
case ("serve", 4): try await serve(in: arguments[2], patience: Int(arguments[3]) ?? 0)
case ("advise", 2): advise()
default:
    print("usage: swift-server serve DIRECTORY MILLISECONDS | advise")
    exit(2)
}
