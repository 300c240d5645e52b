// SPDX-License-Identifier: Apache-2.0

// Glibc declares stdout a variable; nobody sets it.
@unsafe @preconcurrency internal import Glibc

enum StandardOutput {
    /// Writes out what `print` has kept back. Returns why it, or something before it, could not be
    /// written, in words; nil where all is well.
    static func flush() -> String? {
        // Sound: a pointer that libc sets at start.
        let failed = unsafe fflush(stdout) != 0
        let failure = errno
        guard unsafe failed || ferror(stdout) != 0 else { return nil }
        let reason = failed ? unsafe String(cString: strerror(failure)) : "could not be written"
        return "standard output: \(reason)"
    }
}
