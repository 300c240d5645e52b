// SPDX-License-Identifier: Apache-2.0

internal import CPlayer
public import PageTableModel

/// Which profile of the model describes which kernel.
public enum KernelRelease {
    /// Kernels that have a profile, oldest first.
    public static let profiled = KernelProfile.all.map(\.name)

    /// `uname -r`.
    public static var running: String {
        let byteCount = 65
        let text = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: byteCount) {
            buffer in
            guard let start = buffer.baseAddress else { return "" }
            unsafe ptreclaim_kernel_release(start, byteCount)
            return unsafe String(cString: start)
        }
        return text
    }

    /// The name of the newest profile that is not newer than `release`.
    public static func profileName(for release: String) -> String? {
        guard let number = number(release) else { return nil }
        return profiled.last { name in Self.number(name).map { $0 <= number } ?? false }
    }

    /// `6.12.107+deb13-amd64` is 6012.
    private static func number(_ release: String) -> Int? {
        let parts = release.split(separator: ".").prefix(2).map { part in
            Int(part.prefix { $0.isNumber })
        }
        guard parts.count == 2, let major = parts[0], let minor = parts[1] else { return nil }
        return major * 1000 + minor
    }
}

extension KernelProfile {
    /// The profile for the kernel that runs here; nil where all are newer.
    public static var ofRunningKernel: (name: String, profile: KernelProfile)? {
        KernelRelease.profileName(for: KernelRelease.running).flatMap { name in
            named(name).map { (name, $0) }
        }
    }
}
