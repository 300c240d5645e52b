// SPDX-License-Identifier: Apache-2.0

import Foundation
import PageTableSimulator
import Testing

#if canImport(FoundationXML)
    import FoundationXML
#endif

/// What an XML parser finds in a chart.
private final class Document: NSObject, XMLParserDelegate {
    private(set) var elements: [(name: String, attributes: [String: String])] = []
    private(set) var texts: [(attributes: [String: String], text: String)] = []
    private var current: [String: String]?
    private var text = ""
    private(set) var isWellFormed = false

    init(_ svg: String) {
        super.init()
        let parser = XMLParser(data: Data(svg.utf8))
        parser.delegate = self
        isWellFormed = parser.parse()
    }

    func parser(
        _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
        qualifiedName: String?, attributes: [String: String]
    ) {
        elements.append((name, attributes))
        if name == "text" { (current, text) = (attributes, "") }
    }

    func parser(_ parser: XMLParser, foundCharacters string: String) { text += string }

    func parser(
        _ parser: XMLParser, didEndElement name: String, namespaceURI: String?,
        qualifiedName: String?
    ) {
        if name == "text", let current { texts.append((current, text)) }
    }

    var polylines: [[String: String]] {
        elements.filter { $0.name == "polyline" }.map(\.attributes)
    }
    var legend: [String] { texts.filter { $0.attributes["class"] == "legend" }.map(\.text) }
    var endLabels: [String] { texts.filter { $0.attributes["class"] == "end" }.map(\.text) }
    var allTexts: [String] { texts.map(\.text) }
}

private typealias Points = [(seconds: Double, bytes: Double)]

private func ramp(to bytes: Double, over seconds: Double) -> Points {
    (0...20).map { (Double($0) * seconds / 20, Double($0) * bytes / 20) }
}

@Suite struct ChartTests {
    @Test(arguments: [false, true])
    func hasOneLineAndOneLegendEntryForEachSeries(isLogarithmic: Bool) {
        let series = (1...11).map {
            (name: "policy \($0)", points: ramp(to: Double($0) * 1e8, over: 4 * 86400))
        }
        let document = Document(
            Chart.svg(title: "all", series: series, isLogarithmic: isLogarithmic))
        #expect(document.isWellFormed)
        #expect(document.polylines.count == 11)
        #expect(document.legend == series.map(\.name))
        #expect(document.allTexts.contains("simulated time, days"))
        #expect(document.allTexts.contains { $0.hasPrefix("VmPTE, MiB") })
        // Each can be told from the others without its colour.
        let styles = Set(document.polylines.map { $0["stroke-dasharray"] ?? "solid" })
        #expect(styles.count == 11)
        #expect(document.elements.allSatisfy { !["image", "style"].contains($0.name) })
    }

    @Test(arguments: [false, true])
    func drawsLittleOrNothingWithoutFailing(isLogarithmic: Bool) {
        let odd: [Points] = [
            [], [(0, 0)], [(5, 4096)], [(0, 0), (0, 0)], [(.nan, 1), (1, .infinity)],
            [(0, -1), (1, 1)], [(0, 1), (1e-9, 1e-9)], [(0, 1e300), (1e300, 1)],
        ]
        for points in odd {
            let svg = Chart.svg(
                title: "", series: [(name: "one", points: points)], isLogarithmic: isLogarithmic)
            let document = Document(svg)
            #expect(document.isWellFormed)
            #expect(document.polylines.count == 1)
            #expect(!svg.contains("nan") && !svg.contains("inf"), "\(points)")
        }
        let empty = Document(Chart.svg(title: "none", series: [], isLogarithmic: isLogarithmic))
        #expect(empty.isWellFormed && empty.polylines.isEmpty)
    }

    @Test func escapesWhatXMLCannotHold() {
        let name = "a < b & \"c\" > 'd' — ü"
        let document = Document(
            Chart.svg(title: name, series: [(name: name, points: [(0, 1), (1, 2)])]))
        #expect(document.isWellFormed)
        #expect(document.legend == [name])
        let control = Document(
            Chart.svg(title: "\u{1}\u{0}\u{FFFF}", series: [(name: "a\nb", points: [])]))
        #expect(control.isWellFormed)
        #expect(control.legend == ["a b"])
    }

    @Test(arguments: [
        (3e9, 100.0, "VmPTE, GiB", "simulated time, seconds"),
        (5e6, 10_000.0, "VmPTE, MiB", "simulated time, hours"),
        (9e4, 1e6, "VmPTE, KiB", "simulated time, days"),
    ])
    func takesUnitsFromTheData(bytes: Double, seconds: Double, y: String, x: String) {
        let document = Document(
            Chart.svg(title: "", series: [(name: "", points: ramp(to: bytes, over: seconds))]))
        #expect(document.allTexts.contains(y))
        #expect(document.allTexts.contains(x))
    }

    @Test func labelsOfNeighbouringEndsAreJoined() {
        let series = [1e6, 1e6, 5e6, 1e6, 1e6].enumerated().map {
            (name: "\($0.offset)", points: ramp(to: $0.element, over: 10))
        }
        let document = Document(Chart.svg(title: "", series: series))
        #expect(document.endLabels == ["3", "1,2,4,5"])
    }
}
