// SPDX-License-Identifier: Apache-2.0

import Foundation

/// What came of one measurement: its figures, or why there are none.
struct Attempt<Value: Codable>: Codable {
    let name: String
    let value: Value?
    let reason: String?

    init(_ name: String, _ measure: () throws -> Value) {
        self.name = name
        do {
            value = try measure()
            reason = nil
        } catch {
            value = nil
            reason = "\(error)"
        }
    }

    /// For a person, where there is no value.
    var reasonText: String { reason ?? "no reason is recorded" }
}

/// Something about where and with what was measured.
struct Fact: Codable {
    let name: String
    let value: String
}

/// All that a page shows: data.json. Bytes, seconds, nanoseconds; ratios are library / plain.
struct ReportDocument: Codable {
    static let schema = "ptreclaim.benchmarks.report/1"

    let schema: String
    let isQuick: Bool
    /// PTRECLAIM_WATERMARK_KB of the churns.
    let watermarkKB: Int
    /// The most pairs of windows of one comparison.
    let pairs: Int
    /// That repeats it.
    let command: String
    /// ISO 8601, UTC.
    let date: String
    /// So far; the last one is written at the end.
    var seconds = 0.0
    /// Whether everything has been tried.
    var isComplete = false
    let facts: [Fact]
    var churns: [Attempt<ChurnOutcome>] = []
    var comparisons: [Attempt<Modes.Row>] = []
    var speeds: [Attempt<Speed.Result>] = []
    /// Each without the library and with it.
    var waits: [Attempt<[WaitRow]>] = []

    /// - Throws: a sentence that names the file, where it cannot be read or is something else.
    static func read(_ path: String) throws -> ReportDocument {
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw HarnessError("\(path): cannot be read: \(Self.reason(error))")
        }
        struct Head: Decodable { let schema: String }
        guard let head = try? JSONDecoder().decode(Head.self, from: data) else {
            throw HarnessError("\(path): is no data.json of a report: no JSON with a schema")
        }
        guard head.schema == schema else {
            throw HarnessError("\(path): has schema \(head.schema), not \(schema)")
        }
        let document: ReportDocument
        do {
            document = try JSONDecoder().decode(ReportDocument.self, from: data)
        } catch {
            throw HarnessError("\(path): is damaged: \(Self.reason(error))")
        }
        let counts = document.churns.compactMap(\.value).flatMap(\.processes).compactMap(\.row)
            .flatMap { [$0.vmPTE, $0.needed, $0.waste] + $0.untouchable.values }
        // Address spaces end there; so sums of a few are numbers, too.
        guard counts.allSatisfy({ $0 < 1 << 57 }) else {
            throw HarnessError("\(path): is damaged: page tables of more than 2^57 bytes")
        }
        return document
    }

    /// Writes data.json and index.html.
    func write(to directory: URL) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let page = try Page(self).html()
        try Self.write(try encoder.encode(self), to: directory.appending(path: "data.json"))
        try Self.write(Data(page.utf8), to: directory.appending(path: "index.html"))
    }

    private static func write(_ data: Data, to file: URL) throws {
        do {
            try data.write(to: file, options: .atomic)
        } catch {
            throw HarnessError("\(file.path): cannot be written: \(reason(error))")
        }
    }

    /// Makes the directory and tries to write there.
    /// - Throws: with the remedy, where that fails.
    static func prepare(_ directory: URL) throws {
        do {
            try FileManager.default.createDirectory(
                at: directory, withIntermediateDirectories: true)
            let probe = directory.appending(path: ".ptreclaim-\(UUID().uuidString)")
            try Data().write(to: probe)
            try FileManager.default.removeItem(at: probe)
        } catch {
            throw HarnessError(
                "\(directory.path): cannot be written: \(reason(error)). "
                    + "Nothing was measured; name a directory that you may write to.")
        }
    }

    /// errno's words where there are some: Foundation's are of a file without a name.
    private static func reason(_ error: any Error) -> String {
        if let error = error as? DecodingError {
            switch error {
            case .dataCorrupted(let context), .keyNotFound(_, let context),
                .typeMismatch(_, let context), .valueNotFound(_, let context):
                let path = context.codingPath.map(\.stringValue).joined(separator: ".")
                return (path.isEmpty ? "" : "\(path): ") + context.debugDescription
            @unknown default: return "\(error)"
            }
        }
        let underlying = (error as NSError).userInfo[NSUnderlyingErrorKey] as? NSError
        if let underlying, underlying.domain == NSPOSIXErrorDomain,
            let code = POSIXErrorCode(rawValue: Int32(underlying.code))
        {
            return POSIXError(code).localizedDescription
        }
        return error.localizedDescription
    }
}
