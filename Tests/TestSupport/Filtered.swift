// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// A process that sets a seccomp filter which permits everything, and then sleeps.
public enum Filtered {
    private static let python = PackageFiles.installed("python3")

    public static var isPossible: Bool { python != nil }

    /// Its end is the caller's to see to.
    public static func start(
        environment: [String: String] = [:], preloading: [URL] = []
    ) async throws -> Victim {
        let program = """
            import ctypes, struct, time
            libc = ctypes.CDLL(None)
            allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
            libc.prctl(38, 1, 0, 0, 0)
            libc.prctl(22, 2, struct.pack("HxxxxxxP", 1, ctypes.addressof(allow)))
            print("ready", flush=True)
            time.sleep(60)
            """
        let victim = try Victim.start(
            [python ?? "", "-c", program], environment: environment, preloading: preloading)
        _ = try await victim.line(startingWith: "ready", within: .seconds(20))
        return victim
    }
}
