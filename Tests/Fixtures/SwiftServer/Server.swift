// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc

/// What a client asks, one to a line.
struct Request: Codable {
    /// Of the words that are to be made.
    let seed: UInt64
    let count: Int
}

/// What the server answers.
struct Answer: Codable, Equatable {
    let longest: String
    let total: Int
    let histogram: [String: Int]

    /// Makes many strings, and keeps little of them.
    init(to request: Request) {
        var random = Random(state: request.seed)
        let words = (0..<request.count).map { _ in random.word() }
        longest = words.max { ($0.count, $0) < ($1.count, $1) } ?? ""
        total = words.reduce(0) { $0 + $1.utf8.count }
        histogram = Dictionary(grouping: words) { String($0.prefix(1)) }.mapValues(\.count)
    }
}

struct Random {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state >> 33
    }

    mutating func word() -> String {
        let letters = (0..<3 + next() % 60).map { _ in UInt8(97 + next() % 26) }
        return String(decoding: letters, as: UTF8.self)
    }
}

/// A TCP server on the loopback, with a thread for each connection.
final class Server: Sendable {
    let port: UInt16
    private let listener: Int32

    init() throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let bound = unsafe withSocketAddress(&address) { unsafe bind(listener, $0, $1) }
        guard listener >= 0, bound == 0, listen(listener, 16) == 0 else {
            throw POSIXError(.init(rawValue: errno) ?? .EIO)
        }
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = unsafe getsockname(listener, $0, &length)
            }
        }
        self.listener = listener
        port = UInt16(bigEndian: address.sin_port)
    }

    /// Serves `count` connections to their ends.
    func serve(_ count: Int) {
        let listener = listener
        for _ in 0..<count {
            let connection = Connection(accept(listener, nil, nil))
            Thread.detachNewThread {
                while let line = connection.readLine() {
                    guard let request = try? JSONDecoder().decode(Request.self, from: line),
                        let answer = try? JSONEncoder().encode(Answer(to: request))
                    else { break }
                    connection.write(answer)
                }
                connection.close()
            }
        }
    }

    func connect() -> Connection {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = port.bigEndian
        let result = unsafe withSocketAddress(&address) {
            unsafe Glibc.connect(descriptor, $0, $1)
        }
        precondition(result == 0, "connect: errno \(errno)")
        return Connection(descriptor)
    }
}

private func withSocketAddress<R>(
    _ address: inout sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
) -> R {
    unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}

/// Lines, both ways. Used by one thread.
final class Connection: @unchecked Sendable {
    private let descriptor: Int32
    private var buffer: [UInt8] = []

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// The next line without its end, or nil at the end of all.
    func readLine() -> Data? {
        while true {
            if let end = buffer.firstIndex(of: 10) {
                defer { buffer.removeFirst(end + 1) }
                return Data(buffer[..<end])
            }
            var piece = [UInt8](repeating: 0, count: 64 << 10)
            let count = unsafe piece.withUnsafeMutableBytes {
                unsafe read(descriptor, $0.baseAddress, $0.count)
            }
            guard count > 0 else { return nil }
            buffer += piece[..<count]
        }
    }

    func write(_ data: Data) {
        var rest = data[...] + [10]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            precondition(count > 0, "write: errno \(errno)")
            rest = rest.dropFirst(count)
        }
    }

    func close() { _ = Glibc.close(descriptor) }
}
