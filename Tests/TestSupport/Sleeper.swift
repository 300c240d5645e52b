// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Runs `body` beside a process that does nothing, once that has finished its start.
public func withSleep<Result>(_ body: (Int32) async throws -> Result) async throws -> Result {
    let sleeper = try Victim.start(["/usr/bin/env", "sleep", "600"])
    for _ in 0..<1000 {
        let folder = "/proc/\(sleeper.pid)"
        let name = try String(contentsOfFile: "\(folder)/comm", encoding: .utf8)
        let status = try String(contentsOfFile: "\(folder)/status", encoding: .utf8)
        if name == "sleep\n", status.contains("State:\tS") { break }
        try await Task.sleep(for: .milliseconds(5))
    }
    do {
        let result = try await body(sleeper.pid)
        _ = try await sleeper.end(within: .zero)
        return result
    } catch {
        _ = try await sleeper.end(within: .zero)
        throw error
    }
}
