// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Glibc

/// Why a file could not be read or written, in the kernel's words where it has any.
enum FileError {
    static func reason(_ error: any Error) -> String {
        guard let cause = (error as? CocoaError)?.underlying as? POSIXError else {
            return error.localizedDescription
        }
        return unsafe String(cString: strerror(cause.code.rawValue))
    }
}
