// SPDX-License-Identifier: Apache-2.0

extension String {
    /// In lines of at most `width` columns, a longer word apart. The second line and those below
    /// begin with `hanging` spaces; the first stands behind `offset` columns of something else.
    func wrapped(to width: Int, hanging: Int, behind offset: Int = 0) -> [String] {
        var lines = [""]
        var column = offset
        for word in split(separator: " ") {
            let last = lines.count - 1
            if lines[last].isEmpty {
                lines[last] = String(word)
                column += word.count
            } else if column + 1 + word.count <= width {
                lines[last] += " \(word)"
                column += 1 + word.count
            } else {
                lines.append(String(repeating: " ", count: hanging) + word)
                column = hanging + word.count
            }
        }
        return lines
    }

    /// A line that begins with this, and `text` from column `column` on, wrapped there.
    func explained(by text: String, from column: Int, to width: Int = Terminal.columns) -> String {
        let head = padded(to: column)
        let lines = text.wrapped(to: width, hanging: column, behind: head.count)
        return head + lines.joined(separator: "\n")
    }
}
