// SPDX-License-Identifier: Apache-2.0

internal import COptions

/// An option of the preload library, as its own table (Shim/Preload/options.h) has it.
struct LibraryOption {
    /// Of the environment.
    let variable: String
    /// In words; nil where any text will do.
    let values: String?
    /// Nil where there is none.
    let fallback: String?
    let meaning: String

    static let all: [LibraryOption] = (0..<ptreclaim_option_count).map { index in
        // Sound: the table and its strings are constants of this program.
        unsafe LibraryOption(ptreclaim_option_at(index).pointee)
    }

    private init(_ option: ptreclaim_option) {
        variable = unsafe String(cString: option.variable)
        meaning = unsafe String(cString: option.meaning)
        let choices = unsafe String(cString: option.choices)
        let (kind, number) = unsafe (ptreclaim_option_kind(option.kind), option.fallback)
        switch kind {
        case PTRECLAIM_OPTION_CHOICE:
            let names = choices.split(separator: "|")
            values = names.joined(separator: ", ")
            fallback = String(names[Int(number)])
        case PTRECLAIM_OPTION_NUMBER:
            values = choices.replacing("..", with: " to ")
            fallback = "\(number)"
        default:
            values = nil
            fallback = nil
        }
    }
}
