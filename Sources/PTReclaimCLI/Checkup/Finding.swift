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

    /// In words alone, at most 80 columns wide.
    var lines: [String] {
        let width = Terminal.textColumns - Self.indent
        let head = status.rawValue.padded(to: Self.indent)
        var lines = "\(name): \(text)".wrapped(to: width, hanging: 2)
        if let remedy { lines += "remedy: \(remedy)".wrapped(to: width, hanging: 2) }
        return lines.enumerated().map { index, line in
            (index == 0 ? head : String(repeating: " ", count: Self.indent)) + line
        }
    }
}
