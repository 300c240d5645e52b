// SPDX-License-Identifier: Apache-2.0

import Histogram

/// A small pipelining client of redis. Commands gather in a batch together with the exact bytes
/// that must come back for them, so each reply, value or not, is compared byte by byte.
final class RESPClient {
    static let commandsPerBatch = 128
    private let socket: UnixSocket
    private let output = ByteBuffer(capacity: 2 << 20)
    private let expected = ByteBuffer(capacity: 2 << 20)
    private var commandCount = 0
    private var work = Work()
    /// Called between batches, outside the clock.
    var betweenBatches: () -> Void = {}

    init(path: String) throws {
        socket = try UnixSocket(path: path)
    }

    func set(_ key: Int, to value: ChurnValue, of block: RandomBlock) throws {
        output.append("*3\r\n$3\r\nSET\r\n")
        append(key: key)
        output.append("$")
        append(value, of: block, to: output)
        expected.append("+OK\r\n")
        try finishCommand()
    }

    func delete(_ key: Int) throws {
        output.append("*2\r\n$3\r\nDEL\r\n")
        append(key: key)
        expected.append(":1\r\n")
        try finishCommand()
    }

    func get(_ key: Int, expecting value: ChurnValue, of block: RandomBlock) throws {
        output.append("*2\r\n$3\r\nGET\r\n")
        append(key: key)
        expected.append("$")
        append(value, of: block, to: expected)
        try finishCommand()
    }

    /// Sends what is left and returns the work done since the last call.
    func finish() throws -> Work {
        try sendBatch()
        defer { work = Work() }
        return work
    }

    /// Sends one command and returns its reply: a status line or the text of a bulk string.
    func ask(_ words: String...) throws -> String {
        precondition(commandCount == 0, "a batch is under way")
        defer { output.removeAll() }
        output.append("*\(words.count)\r\n")
        for word in words {
            output.append("$\(word.utf8.count)\r\n\(word)\r\n")
        }
        let reply = try socket.ask(output) { reply in
            guard reply.hasSuffix("\r\n") else { return false }
            guard reply.hasPrefix("$") else { return true }
            let header = reply.utf8.prefix { $0 != 13 }
            let byteCount = Int(String(Substring(header.dropFirst()))) ?? 0
            return reply.utf8.count == header.count + 2 + byteCount + 2
        }
        if reply.hasPrefix("-") { throw SocketError("\(words[0]): \(reply.dropLast(1))") }
        return reply
    }

    private func append(key: Int) {
        output.append("$16\r\nkey:")
        output.append(decimal: key, minimumDigits: 12)
        output.append("\r\n")
    }

    private func append(_ value: ChurnValue, of block: RandomBlock, to buffer: ByteBuffer) {
        buffer.append(decimal: value.byteCount)
        buffer.append("\r\n")
        buffer.append(block, offset: value.offset, byteCount: value.byteCount)
        buffer.append("\r\n")
    }

    private func finishCommand() throws {
        commandCount += 1
        if commandCount == Self.commandsPerBatch { try sendBatch() }
    }

    private func sendBatch() throws {
        guard commandCount > 0 else { return }
        let clock = ContinuousClock()
        let time = try clock.measure { try socket.exchange(output, expecting: expected) }
        work.add(operations: commandCount, time: time)
        output.removeAll()
        expected.removeAll()
        commandCount = 0
        betweenBatches()
    }
}

/// What was done, and how long the server took for it.
struct Work {
    private(set) var operations = 0
    private(set) var seconds = 0.0
    var cpuSeconds = 0.0
    /// Time of one batch in microseconds, where there were batches.
    private(set) var batches = Histogram<UInt32>(numberOfSignificantValueDigits: .two)

    mutating func add(operations count: Int, time: Duration) {
        operations += count
        seconds += time.seconds
        batches.record(UInt64(time.seconds * 1e6))
    }

    mutating func add(operations count: Int, seconds time: Double) {
        operations += count
        seconds += time
    }

    mutating func add(_ other: Work) {
        operations += other.operations
        seconds += other.seconds
        cpuSeconds += other.cpuSeconds
        for value in other.batches.recordedValues() {
            batches.record(value.value, count: UInt32(value.count))
        }
    }

    var operationsPerSecond: Double? { seconds > 0 ? Double(operations) / seconds : nil }
    var cpuMicrosecondsPerOperation: Double? {
        operations > 0 ? cpuSeconds * 1e6 / Double(operations) : nil
    }
    var p99BatchMicroseconds: UInt64? {
        batches.totalCount > 0 ? batches.valueAtPercentile(99) : nil
    }
}

extension Duration {
    var seconds: Double {
        Double(components.seconds) + Double(components.attoseconds) / 1e18
    }
}
