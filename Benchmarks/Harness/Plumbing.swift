// SPDX-License-Identifier: Apache-2.0

import Glibc

// Raw bytes, a socket, a clock: everything of the harness that is unsafe is in this file. The
// values of a million keys pass through here, in debug builds too, hence memcpy and memcmp.

/// A mebibyte-sized pool of seeded random bytes. A value is a piece of it, so that no value needs
/// to be kept for the comparison.
@safe final class RandomBlock {
    static let byteCount = 8 << 20
    fileprivate let bytes: UnsafeMutableRawPointer

    init(seed: UInt64) {
        unsafe bytes = .allocate(byteCount: Self.byteCount, alignment: 8)
        var generator = SplitMix64(seed: seed)
        for offset in stride(from: 0, to: Self.byteCount, by: 8) {
            unsafe bytes.storeBytes(of: generator.next(), toByteOffset: offset, as: UInt64.self)
        }
    }

    deinit { unsafe bytes.deallocate() }
}

/// Bytes to send, or bytes that must come back. Fixed capacity.
@safe final class ByteBuffer {
    private let capacity: Int
    fileprivate let bytes: UnsafeMutableRawPointer
    private(set) var count = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe bytes = .allocate(byteCount: capacity, alignment: 8)
    }

    deinit { unsafe bytes.deallocate() }

    func removeAll() { count = 0 }

    func append(_ text: StaticString) {
        unsafe append(UnsafeRawPointer(text.utf8Start), text.utf8CodeUnitCount)
    }

    func append(_ text: String) {
        var text = text
        text.withUTF8 { utf8 in
            guard let start = utf8.baseAddress else { return }
            unsafe append(UnsafeRawPointer(start), utf8.count)
        }
    }

    func append(_ block: RandomBlock, offset: Int, byteCount: Int) {
        precondition(offset >= 0 && byteCount >= 0 && offset + byteCount <= RandomBlock.byteCount)
        unsafe append(UnsafeRawPointer(block.bytes + offset), byteCount)
    }

    func append(decimal value: Int, minimumDigits: Int = 1) {
        var digits = 1
        var rest = value / 10
        while rest > 0 {
            digits += 1
            rest /= 10
        }
        digits = digits < minimumDigits ? minimumDigits : digits
        precondition(value >= 0 && count + digits <= capacity)
        rest = value
        var position = count + digits - 1
        while position >= count {
            let digit = UInt8(48 + rest % 10)
            unsafe bytes.storeBytes(of: digit, toByteOffset: position, as: UInt8.self)
            rest /= 10
            position -= 1
        }
        count += digits
    }

    private func append(_ source: UnsafeRawPointer, _ byteCount: Int) {
        precondition(count + byteCount <= capacity, "a batch does not fit its buffer")
        unsafe memcpy(bytes + count, source, byteCount)
        count += byteCount
    }
}

struct SocketError: Error, CustomStringConvertible {
    let description: String

    init(_ what: String, errno code: Int32) {
        description = unsafe "\(what): \(String(cString: strerror(code)))"
    }

    init(_ description: String) { self.description = description }
}

/// A connected unix stream socket, never blocking.
@safe final class UnixSocket {
    private static let inputByteCount = 1 << 18
    private static let timeoutMilliseconds: Int32 = 60_000
    private let descriptor: Int32
    private let input: UnsafeMutableRawPointer

    init(path: String) throws {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard path.utf8.count < room else { throw SocketError("\(path): too long for a socket") }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { destination in
            unsafe destination.copyBytes(from: path.utf8)
        }
        let descriptor = socket(
            AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SocketError("socket", errno: errno) }
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                unsafe connect(descriptor, pointer, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            let code = errno
            close(descriptor)
            throw SocketError("connect \(path)", errno: code)
        }
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        self.descriptor = descriptor
        unsafe input = .allocate(byteCount: Self.inputByteCount, alignment: 8)
    }

    deinit {
        close(descriptor)
        unsafe input.deallocate()
    }

    /// Sends what the socket takes now; returns how many bytes that were.
    private func sendSome(of output: ByteBuffer, from sent: Int) -> Int {
        guard sent < output.count else { return 0 }
        let count = unsafe send(
            descriptor, output.bytes + sent, output.count - sent, Int32(MSG_NOSIGNAL))
        return max(count, 0)
    }

    /// Sends `output` and compares what comes back with `expected`, byte by byte. Replies are read
    /// while the rest is still being written, or both sides would wait for each other.
    /// - Throws: when a byte differs, when the peer hangs up or says nothing for a minute.
    func exchange(_ output: ByteBuffer, expecting expected: ByteBuffer) throws {
        var sent = 0
        var received = 0
        while sent < output.count || received < expected.count {
            try waitUntilReady(forWriting: sent < output.count)
            sent += sendSome(of: output, from: sent)
            let count = try receive()
            guard count > 0 else { continue }
            guard
                received + count <= expected.count,
                unsafe memcmp(input, expected.bytes + received, count) == 0
            else {
                throw SocketError("wrong reply: \(excerpt(count)), at byte \(received) of a batch")
            }
            received += count
        }
    }

    /// Sends one command and returns its reply as text, when `isComplete` says that it is whole.
    func ask(_ output: ByteBuffer, isComplete: (String) -> Bool) throws -> String {
        var sent = 0
        var reply = ""
        while !isComplete(reply) {
            try waitUntilReady(forWriting: sent < output.count)
            sent += sendSome(of: output, from: sent)
            let count = try receive()
            reply += unsafe String(
                decoding: UnsafeRawBufferPointer(start: input, count: count), as: UTF8.self)
        }
        return reply
    }

    private func waitUntilReady(forWriting: Bool) throws {
        var poller = pollfd(
            fd: descriptor, events: Int16(forWriting ? POLLIN | POLLOUT : POLLIN), revents: 0)
        guard unsafe poll(&poller, 1, Self.timeoutMilliseconds) > 0 else {
            throw SocketError("the server has not answered for a minute")
        }
    }

    /// Returns the number of bytes now in `input`; 0 when there was nothing to read.
    private func receive() throws -> Int {
        let count = unsafe recv(descriptor, input, Self.inputByteCount, 0)
        if count == 0 { throw SocketError("the server has closed the connection") }
        if count < 0 {
            guard errno == EAGAIN || errno == EINTR else { throw SocketError("recv", errno: errno) }
            return 0
        }
        return count
    }

    private func excerpt(_ count: Int) -> String {
        unsafe String(
            decoding: UnsafeRawBufferPointer(start: input, count: min(count, 120)), as: UTF8.self
        ).debugDescription
    }
}

/// Whether `descriptor` has something to read within `milliseconds`.
func isReadable(_ descriptor: Int32, within milliseconds: Int32) -> Bool {
    var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&poller, 1, milliseconds) > 0
}

var isTerminal: Bool { isatty(2) == 1 }

/// User and system time of all processes that were started here and have ended.
var endedProcessesCPUSeconds: Double {
    var usage = rusage()
    guard unsafe getrusage(__rusage_who_t(RUSAGE_CHILDREN.rawValue), &usage) == 0 else {
        return .nan
    }
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Hands on what was printed, also into a pipe: a long run is watched.
func flushOutput() {
    fflush(nil)
}

/// The same numbers on every machine for the same seed. (Sebastiano Vigna's splitmix64.)
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// A number in `0 ..< bound`; cheap, and even enough for sizes and shuffles.
    mutating func next(below bound: Int) -> Int {
        Int(truncatingIfNeeded: next() >> 33) % bound
    }
}
