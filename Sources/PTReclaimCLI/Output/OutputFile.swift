// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A file that the user named for a result.
struct OutputFile {
    let path: String
    /// Whose failure it would be.
    let command: String

    /// Replaces what the file held. Ends the program with the kernel's reason where it cannot be
    /// written, a full disk included.
    func write(_ text: String) {
        guard let file = unsafe fopen(path, "we") else { fail(errno) }
        let text = Array(text.utf8)
        let count = unsafe fwrite(text, 1, text.count, file)
        let failure = errno
        guard unsafe fclose(file) == 0 else { fail(errno) }
        if count < text.count { fail(failure) }
    }

    private func fail(_ failure: Int32) -> Never {
        let reason = unsafe String(cString: strerror(failure))
        PTReclaimCommand.fail("\(path): \(reason)", command: command)
    }
}
