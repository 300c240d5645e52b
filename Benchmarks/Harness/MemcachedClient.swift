// SPDX-License-Identifier: Apache-2.0

/// A small pipelining client of memcached. As in `RESPClient`, every reply is compared byte by byte.
final class MemcachedClient {
    private static let commandsPerBatch = 128
    private let socket: UnixSocket
    private let output = ByteBuffer(capacity: 2 << 20)
    private let expected = ByteBuffer(capacity: 2 << 20)
    private var commandCount = 0

    init(path: String) throws {
        socket = try UnixSocket(path: path)
    }

    func set(_ key: Int, to value: ChurnValue, of block: RandomBlock) throws {
        output.append("set ")
        output.append(decimal: key, minimumDigits: 12)
        output.append(" 0 0 ")
        append(value, of: block, to: output)
        expected.append("STORED\r\n")
        try finishCommand()
    }

    func get(_ key: Int, expecting value: ChurnValue, of block: RandomBlock) throws {
        output.append("get ")
        output.append(decimal: key, minimumDigits: 12)
        output.append("\r\n")
        expected.append("VALUE ")
        expected.append(decimal: key, minimumDigits: 12)
        expected.append(" 0 ")
        append(value, of: block, to: expected)
        expected.append("END\r\n")
        try finishCommand()
    }

    func delete(_ key: Int) throws {
        output.append("delete ")
        output.append(decimal: key, minimumDigits: 12)
        output.append("\r\n")
        expected.append("DELETED\r\n")
        try finishCommand()
    }

    /// Sends what is left, and then `command` alone.
    func tell(_ command: String, expecting reply: String) throws {
        try sendBatch()
        output.append(command + "\r\n")
        expected.append(reply + "\r\n")
        commandCount = 1
        try sendBatch()
    }

    func finish() throws { try sendBatch() }

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
        try socket.exchange(output, expecting: expected)
        output.removeAll()
        expected.removeAll()
        commandCount = 0
    }
}
