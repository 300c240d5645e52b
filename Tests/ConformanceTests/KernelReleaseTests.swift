// SPDX-License-Identifier: Apache-2.0

import Conformance
import PageTableModel
import Testing

@Suite struct KernelReleaseTests {
    @Test(
        "the newest profile that is not newer than the kernel is taken",
        arguments: [
            ("6.1.0-56-cloud-amd64", "6.1"), ("6.12.107+deb13-amd64", "6.12"), ("6.11.0", "6.1"),
            ("6.15.3", "6.12"), ("6.18.44-fc", "6.18"), ("6.19-rc1", "6.18"), ("7.0.1", "6.18"),
            ("7.2.13", "7.2"), ("8.0", "7.2"), ("5.15.0", nil), ("6", nil), ("", nil),
        ] as [(String, String?)])
    func profile(release: String, name: String?) {
        #expect(KernelRelease.profileName(for: release) == name)
    }

    @Test("every name has a profile", arguments: KernelRelease.profiled)
    func names(name: String) {
        #expect(KernelProfile.named(name) != nil)
    }
}
