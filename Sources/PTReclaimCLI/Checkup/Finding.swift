// SPDX-License-Identifier: Apache-2.0

/// One line of `ptreclaim doctor`.
struct Finding: Encodable {
    enum Status: String, Encodable {
        case ok, limited, no
    }

    let name: String
    let status: Status
    let text: String
    /// What to do about it; nil where there is nothing to do.
    let remedy: String?

    init(_ name: String, _ status: Status, _ text: String, remedy: String? = nil) {
        self.name = name
        self.status = status
        self.text = text
        self.remedy = remedy
    }

    private enum Key: CodingKey { case name, status, text, remedy }

    func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode(name, forKey: .name)
        try object.encode(status, forKey: .status)
        try object.encode(text, forKey: .text)
        try object.encode(remedy, forKey: .remedy)
    }

    private static let indent = 9
    private static let width = 80

    /// In words alone, at most 80 columns wide.
    var lines: [String] {
        let head = status.rawValue.padded(to: Self.indent)
        var lines = Self.wrapped("\(name): \(text)")
        if let remedy { lines += Self.wrapped("remedy: \(remedy)") }
        return lines.enumerated().map { index, line in
            (index == 0 ? head : String(repeating: " ", count: Self.indent)) + line
        }
    }

    private static func wrapped(_ text: String) -> [String] {
        var lines = [""]
        for word in text.split(separator: " ") {
            let line = lines[lines.count - 1]
            if line.isEmpty {
                lines[lines.count - 1] = String(word)
            } else if line.count + 1 + word.count <= width - indent {
                lines[lines.count - 1] = "\(line) \(word)"
            } else {
                lines.append("  \(word)")
            }
        }
        return lines
    }
}
