// SPDX-License-Identifier: Apache-2.0

import Foundation
import FoundationXML
import TestSupport
import Testing

private func benchmarks(_ arguments: [String]) async throws -> Victim.Outcome {
    try await Victim.run([PackageFiles.executable("Benchmarks")] + arguments)
}

/// A page, read as XML.
private final class ReadPage: NSObject, XMLParserDelegate {
    private(set) var elements: [String: Int] = [:]
    /// Of any element, `name=value`.
    private(set) var attributes: Set<String> = []
    private(set) var identifiers: [String] = []
    private(set) var drawings: [String: [String]] = [:]
    private(set) var text = ""
    private var path: [String] = []
    private var drawing = ""

    init(_ html: String) throws {
        super.init()
        let parser = XMLParser(data: Data(html.utf8))
        parser.delegate = self
        guard parser.parse() else {
            throw parser.parserError ?? CocoaError(.fileReadCorruptFile)
        }
    }

    func parser(
        _ parser: XMLParser, didStartElement element: String, namespaceURI: String?,
        qualifiedName: String?, attributes: [String: String] = [:]
    ) {
        elements[element, default: 0] += 1
        path.append(element)
        for (name, value) in attributes { self.attributes.insert("\(name)=\(value)") }
        if let identifier = attributes["id"] { identifiers.append(identifier) }
        if element == "svg" { drawing = attributes["aria-labelledby"] ?? "" }
        if path.contains("svg") { drawings[drawing, default: []].append(element) }
    }

    func parser(
        _ parser: XMLParser, didEndElement element: String, namespaceURI: String?,
        qualifiedName: String?
    ) { path.removeLast() }

    func parser(_ parser: XMLParser, foundCharacters string: String) { text += string }

    /// With one space for any white space.
    var words: String { text.split(whereSeparator: \.isWhitespace).joined(separator: " ") }
}

/// The page of `Benchmarks --report DIR --from data.json`; nothing is measured.
@Suite struct ReportTests {
    private typealias Object = [String: Any]

    private static let recorded = PackageFiles.root.appending(
        path: "Tests/Fixtures/Report/data.json")

    private func data() throws -> Object {
        try #require(
            try JSONSerialization.jsonObject(with: Data(contentsOf: Self.recorded)) as? Object)
    }

    /// The page of these figures.
    private func page(of data: Object) async throws -> (html: String, read: ReadPage) {
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "changed.json")
        try JSONSerialization.data(withJSONObject: data).write(to: file)
        let output = directory.url.appending(path: "new/page")
        let result = try await benchmarks(["--report", output.path, "--from", file.path])
        #expect(result.status == 0, "\(result)")
        let html = try String(
            contentsOf: output.appending(path: "index.html"), encoding: .utf8)
        return (html, try ReadPage(html))
    }

    /// `change` made to what lies at `path` of keys and indices.
    private func changed(
        _ value: Any, _ path: [any Sendable], _ change: (Any) throws -> Any
    ) throws -> Any {
        guard let first = path.first else { return try change(value) }
        let rest = Array(path.dropFirst())
        if let key = first as? String {
            var object = try #require(value as? Object)
            object[key] = try changed(object[key] ?? NSNull(), rest, change)
            return object
        }
        var array = try #require(value as? [Any])
        let index = try #require(first as? Int)
        array[index] = try changed(array[index], rest, change)
        return array
    }

    private func setting(
        _ path: [any Sendable], to new: Any, in data: Object
    ) throws -> Object {
        try #require(try changed(data, path) { _ in new } as? Object)
    }

    @Test("a recorded run: every drawing, every section, nothing from elsewhere")
    func recordedRun() async throws {
        let (html, page) = try await page(of: try data())
        #expect(page.elements["svg"] == 5)
        for (name, parts) in page.drawings {
            #expect(parts.prefix(3) == ["svg", "title", "desc"], "\(name)")
        }
        let lines = page.drawings.filter { $0.key.hasPrefix("churn-1-") }
        #expect(lines.count == 2)
        // A line and its leader for each of the five modes.
        for parts in lines.values { #expect(parts.count { $0 == "polyline" } == 10) }
        #expect(Set(page.identifiers).count == page.identifiers.count)
        for label in page.drawings.keys {
            for identifier in label.split(separator: " ") {
                #expect(page.identifiers.contains(String(identifier)))
            }
        }
        for element in ["script", "link", "img", "iframe", "object", "embed", "image", "use", "a"] {
            #expect(page.elements[element] == nil)
        }
        for attribute in page.attributes {
            #expect(!attribute.hasPrefix("src=") && !attribute.contains("href="))
            #expect(!attribute.hasPrefix("on") && !attribute.contains("javascript:"))
        }
        #expect(!html.contains("url(") && !html.contains("@import"))
        for words in [
            "Waste that is left at the end", "260 of 368", "Page tables over time", "hooks+scan 0",
            "Speed", "not resolved", "Waits at fences", "p99.9", "Linux 6.18.44",
            "This was a quick run", "swift run -c release Benchmarks --report DIR --quick",
        ] { #expect(page.words.contains(words), "\(words)") }
        #expect(!page.words.contains("This run was not finished"))
    }

    @Test("data.json goes through unchanged")
    func roundTrip() async throws {
        let directory = try TemporaryDirectory()
        let outputs = ["one", "two"].map { directory.url.appending(path: $0) }
        var input = Self.recorded
        for output in outputs {
            let result = try await benchmarks(["--from", input.path, "--report=\(output.path)"])
            #expect(result.status == 0, "\(result)")
            #expect(result.output == output.appending(path: "index.html").path + "\n")
            input = output.appending(path: "data.json")
        }
        for name in ["data.json", "index.html"] {
            let files = outputs.map { $0.appending(path: name).path }
            #expect(FileManager.default.contentsEqual(atPath: files[0], andPath: files[1]))
        }
        let again = try #require(
            try JSONSerialization.jsonObject(with: Data(contentsOf: input)) as? Object)
        for key in ["churns", "facts", "speeds", "date", "schema", "seconds"] {
            let (old, new) = (try data()[key] as? NSObject, again[key] as? NSObject)
            #expect(old != nil && old == new, "\(key)")
        }
    }

    @Test(
        "texts are escaped, wherever they come from",
        arguments: ["<b>&\"'", "</svg><\u{301}\u{1b}"])
    func escaping(evil: String) async throws {
        let places: [[any Sendable]] = [
            ["churns", 0, "name"], ["churns", 0, "value", "program"],
            ["churns", 0, "value", "marks", 0, "name"],
            ["churns", 0, "value", "processes", 1, "command"],
            ["churns", 0, "value", "processes", 2, "row", "chosenMode"],
            ["comparisons", 0, "value", "program"], ["waits", 0, "name"],
            ["waits", 0, "value", 1, "scenario"], ["facts", 0, "name"], ["facts", 1, "value"],
            ["command"], ["date"], ["speeds", 0, "value", "name"],
        ]
        var data = try data()
        for (number, place) in places.enumerated() {
            data = try setting(place, to: "\(evil)\(number);", in: data)
        }
        let (html, page) = try await page(of: data)
        // What no XML document may have is replaced.
        let shown = evil.replacing("\u{1b}", with: "\u{FFFD}")
        for number in places.indices {
            #expect(page.text.contains("\(shown)\(number);"), "\(places[number])")
        }
        #expect(page.elements["b"] == nil)
        #expect(page.elements["svg"] == 5)
        #expect(!html.unicodeScalars.contains("\u{1b}"))
    }

    @Test("what was not measured is a sentence with its reason")
    func failures() async throws {
        var data = try data()
        for (list, name) in [
            ("churns", "memcached"), ("comparisons", "redis"), ("speeds", "none"),
            ("waits", "idle"),
        ] {
            data[list] = [["name": name, "reason": "\(list) is <not> installed"]]
        }
        let (_, page) = try await page(of: data)
        #expect(page.elements["svg"] == nil)
        for words in [
            "Not measured: churns is <not> installed.", "No program has figures.",
            "redis was not measured: comparisons is <not> installed.", "No comparison has figures.",
            "none was not measured: speeds is <not> installed.",
            "Not measured: waits is <not> installed.",
        ] { #expect(page.words.contains(words), "\(words)") }
    }

    @Test("an empty run, and one that was stopped")
    func empty() async throws {
        var data = try data()
        for list in ["churns", "comparisons", "speeds", "waits", "facts"] { data[list] = [Any]() }
        data["isComplete"] = false
        let (_, page) = try await page(of: data)
        #expect(page.elements["svg"] == nil)
        for words in [
            "This run was not finished", "No program has figures.", "No program was played.",
            "No comparison has figures.", "No waits were measured.",
        ] { #expect(page.words.contains(words), "\(words)") }
    }

    @Test("a mode without figures, a process nobody saw, waits that nobody had, an unknown waste")
    func partial() async throws {
        var data = try data()
        let process: [any Sendable] = ["churns", 0, "value", "processes"]
        data = try setting(process + [2, "row"], to: NSNull(), in: data)
        data = try setting(process + [2, "failure"], to: "off: no fence", in: data)
        data = try setting(process + [3, "points"], to: [Any](), in: data)
        data = try setting(["waits", 0, "value", 1, "waits", "buckets"], to: "", in: data)
        data = try setting(["waits", 0, "value", 1, "hasShim"], to: true, in: data)
        var (_, page) = try await page(of: data)
        #expect(page.words.contains("madvise has no figures: off: no fence."))
        #expect(page.words.contains("madvise (failed)"))
        #expect(page.words.contains("With scan no write slept"))
        #expect(page.elements["svg"] == 4)

        for index in 0..<5 {
            let withoutWaste = try changed(data, process + [index, "points"]) { points in
                (points as? [Object] ?? []).map { point in point.filter { $0.key != "waste" } }
            }
            data = try #require(withoutWaste as? Object)
        }
        page = try await self.page(of: data).read
        #expect(page.words.contains("does not tell empty tables (PAGEMAP_SCAN, Linux 6.7)"))
        #expect(page.elements["svg"] == 3)
    }

    @Test("figures that no measurement gives make no crash", arguments: [-1e300, 0, 1e300])
    func wildFigures(value: Double) async throws {
        var data = try data()
        let points: [any Sendable] = ["churns", 0, "value", "processes", 0, "points"]
        data = try setting(points + [1, "seconds"], to: value, in: data)
        data = try setting(["churns", 0, "value", "marks", 0, "seconds"], to: value, in: data)
        for key in ["mean", "low", "high"] {
            data = try setting(
                ["comparisons", 0, "value", "result", "cpu", key], to: value, in: data)
        }
        data = try setting(["seconds"], to: value, in: data)
        #expect(try await page(of: data).read.elements["svg"] == 5)
    }

    @Test(
        "a file that is not of a report, or damaged: said, and no page",
        arguments: [
            ("", "no JSON with a schema"), ("[]", "no JSON with a schema"),
            (
                #"{"schema":"ptreclaim.benchmarks.churn/1"}"#,
                "has schema ptreclaim.benchmarks.churn/1"
            ),
            (#"{"schema":"ptreclaim.benchmarks.report/1"}"#, "is damaged: "),
        ])
    func wrongFiles(content: String, words: String) async throws {
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "data.json")
        try Data(content.utf8).write(to: file)
        let output = directory.url.appending(path: "page")
        let result = try await benchmarks(["--report", output.path, "--from", file.path])
        #expect(result.status == 1)
        #expect(result.errors.contains(words) && result.errors.contains(file.path), "\(result)")
        #expect(!FileManager.default.fileExists(atPath: output.path))
    }

    @Test("numbers that would overflow are refused")
    func overflow() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "data.json")
        let row: [any Sendable] = ["churns", 0, "value", "processes", 1, "row", "vmPTE"]
        let buckets: [any Sendable] = ["waits", 0, "value", 1, "waits", "buckets"]
        for data in [
            try setting(row, to: UInt.max, in: try data()),
            try setting(buckets, to: "\(UInt64.max):1 3:\(UInt64.max)", in: try data()),
        ] {
            try JSONSerialization.data(withJSONObject: data).write(to: file)
            let result = try await benchmarks(
                ["--report", directory.url.appending(path: "page").path, "--from", file.path])
            #expect(result.status == 1)
            #expect(result.errors.contains("is damaged"), "\(result)")
        }
    }

    @Test("a directory that cannot be written is said before anything is measured")
    func unwritable() async throws {
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "file")
        try Data().write(to: file)
        for place in [file.path, file.appending(path: "below").path, "/proc/report"] {
            let result = try await benchmarks(["--report", place, "--quick"])
            #expect(result.status == 1)
            #expect(result.errors.contains("\(place): cannot be written"), "\(result)")
            #expect(!result.errors.contains("Building"))
        }
    }

    @Test(
        "usage errors have status 2",
        arguments: [
            ["--report"], ["--report", "d", "--from", "f", "--quick"],
            ["--report", "d", "--pairs", "2"], ["waits", "--report", "d"],
            ["--report", "d", "--cycles", "2"],
        ])
    func usage(arguments: [String]) async throws {
        let result = try await benchmarks(arguments)
        #expect(result.status == 2)
        #expect(result.errors.contains("Usage:"))
        #expect(result.output.isEmpty)
    }
}
