// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// A line chart of VmPTE over simulated time, for a screen and for a printer that has no colours.
public enum Chart {
    /// - Parameters:
    ///   - series: one line each, in the order of the legend; points in the order of their time.
    ///     What is not finite is left out, and what is not positive where `isLogarithmic`.
    ///   - isLogarithmic: whether equal distances upwards are equal ratios.
    /// - Returns: an SVG document.
    public static func svg(
        title: String, series: [(name: String, points: [(seconds: Double, bytes: Double)])],
        isLogarithmic: Bool = false
    ) -> String {
        let lines = series.enumerated().map { number, one in
            Line(
                name: one.name, style: Style(number: number),
                points: one.points.filter {
                    $0.seconds.isFinite && $0.bytes.isFinite && (!isLogarithmic || $0.bytes > 0)
                })
        }
        return Drawing(title: title, lines: lines, isLogarithmic: isLogarithmic).document
    }
}

private struct Line {
    let name: String
    let style: Style
    let points: [(seconds: Double, bytes: Double)]
}

/// Colours differ in how dark they are, too; dashes differ where colours come again.
private struct Style {
    let color: String
    let dashes: String
    let width: Double

    private static let colors = [
        "#000000", "#e69f00", "#0072b2", "#56b4e9", "#661144", "#d55e00", "#117755", "#999999",
    ]
    private static let patterns = [
        "", "9 4", "2 3", "10 3 2 3", "18 5", "5 5", "14 3 2 3 2 3", "1 5", "22 4 6 4", "7 2",
        "3 8", "12 8",
    ]

    init(number: Int) {
        color = Self.colors[number % Self.colors.count]
        dashes = Self.patterns[number % Self.patterns.count]
        // What is drawn later is thinner: of lines that lie on each other all can be seen.
        width = max(1.4, 4.8 - 0.36 * Double(number))
    }

    var attributes: String {
        "fill=\"none\" stroke=\"\(color)\" stroke-width=\"\(number(width))\""
            + (dashes.isEmpty ? "" : " stroke-dasharray=\"\(dashes)\"")
    }
}

// MARK: - Axes

/// From values to positions, with the values that are marked.
private struct Axis {
    let low: Double
    let high: Double
    let ticks: [Double]
    let isLogarithmic: Bool

    /// From 0 on, to a round number.
    init(linearUpTo greatest: Double, unit: Double) {
        let most = greatest > 0 ? greatest / unit : 1
        let raw = most / 6
        let power = pow(10, floor(log10(raw)))
        let step = ([1, 2, 2.5, 5].first { $0 * power >= raw * 0.999 } ?? 10) * power
        let count = max(1, Int((most / step - 1e-9).rounded(.up)))
        low = 0
        high = Double(count) * step * unit
        ticks = (0...count).map { Double($0) * step * unit }
        isLogarithmic = false
    }

    /// Ends where the values end, or at the next tick where that is near; ticks at round numbers of the unit.
    init(timeUpTo greatest: Double, unit: Double) {
        let rounded = Axis(linearUpTo: greatest, unit: unit)
        low = 0
        high = greatest > 0 && greatest < 0.95 * rounded.high ? greatest : rounded.high
        ticks = rounded.ticks.filter { [high] in $0 <= high * 1.0001 }
        isLogarithmic = false
    }

    /// Powers of two, of 1024 where there are many.
    init(logarithmicFrom least: Double, to greatest: Double) {
        let first = floor(log2(least))
        let last = max(first + 1, ceil(log2(greatest)))
        let step = max(1, ((last - first) / 8).rounded(.up))
        low = first
        high = last
        ticks = stride(from: first, through: last, by: step).map { exp2($0) }
        isLogarithmic = true
    }

    /// 0 at the low end, 1 at the high.
    func fraction(_ value: Double) -> Double {
        ((isLogarithmic ? log2(value) : value) - low) / (high - low)
    }
}

private struct Unit {
    let name: String
    let factor: Double

    static func bytes(upTo greatest: Double) -> Unit {
        for (name, factor) in [("GiB", 1073741824.0), ("MiB", 1048576.0)]
        where greatest >= 2 * factor { return Unit(name: name, factor: factor) }
        return Unit(name: "KiB", factor: 1024)
    }

    static func time(upTo greatest: Double) -> Unit {
        for (name, factor) in [("days", 86400.0), ("hours", 3600.0)]
        where greatest >= 2 * factor { return Unit(name: name, factor: factor) }
        return Unit(name: "seconds", factor: 1)
    }
}

/// With as many digits as it needs, three after the point at most.
private func number(_ value: Double) -> String {
    var text = String(format: "%.3f", value)
    while text.hasSuffix("0") { text.removeLast() }
    if text.hasSuffix(".") { text.removeLast() }
    return text == "-0" ? "0" : text
}

private func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "&": result += "&amp;"
        case "<": result += "&lt;"
        case ">": result += "&gt;"
        case "\"": result += "&quot;"
        case "'": result += "&apos;"
        case "\t", "\n", "\r": result += " "
        // No XML document has these, however they are spelled.
        case "\u{0}"..<" ", "\u{FFFE}", "\u{FFFF}": result += "\u{FFFD}"
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result
}

// MARK: - Drawing

private struct Drawing {
    let title: String
    let lines: [Line]
    private let x: Axis
    private let y: Axis
    private let byteUnit: Unit
    private let timeUnit: Unit
    private let endLabels: [(text: String, y: Double)]

    private let left = 78.0
    private let top = 46.0
    private let plotWidth = 600.0
    private let plotHeight = 400.0
    private let legendRow = 21.0
    private let characterWidth = 6.6

    private var right: Double { left + plotWidth }
    private var bottom: Double { top + plotHeight }
    private var legendLeft: Double {
        right + 30 + Double(endLabels.map(\.text.count).max() ?? 0) * characterWidth
    }
    private var width: Double {
        let longest = lines.map(\.name.count).max() ?? 0
        return legendLeft + 88 + Double(longest) * characterWidth + 14
    }
    private var height: Double {
        max(bottom + 56, top + Double(lines.count + 1) * legendRow + 12)
    }

    init(title: String, lines: [Line], isLogarithmic: Bool) {
        self.title = title
        self.lines = lines
        let points = lines.flatMap(\.points)
        let most = points.map(\.bytes).max() ?? 0
        let longest = points.map(\.seconds).max() ?? 0
        let least = points.map(\.bytes).min() ?? 0
        byteUnit = Unit.bytes(upTo: most)
        timeUnit = Unit.time(upTo: longest)
        y =
            isLogarithmic && least > 0
            ? Axis(logarithmicFrom: least, to: most)
            : Axis(linearUpTo: most, unit: byteUnit.factor)
        x = Axis(timeUpTo: longest, unit: timeUnit.factor)
        endLabels = Self.labels(lines, y, bottom: top + plotHeight, plotHeight: plotHeight)
    }

    var document: String {
        var parts = [
            """
            <svg xmlns="http://www.w3.org/2000/svg" width="\(number(width))" \
            height="\(number(height))" viewBox="0 0 \(number(width)) \(number(height))" \
            font-family="sans-serif" font-size="12" fill="#000000">
            """,
            "<title>\(escaped(title))</title>",
            """
            <rect width="\(number(width))" height="\(number(height))" fill="#ffffff"/>
            """,
            text(title, left, 24, "font-size=\"16\" font-weight=\"bold\""),
        ]
        parts += yAxis() + xAxis()
        parts += lines.map(polyline)
        parts += legend()
        parts += endLabels.map { text($0.text, right + 5, $0.y + 4, "class=\"end\"") }
        return parts.joined(separator: "\n") + "\n</svg>\n"
    }

    private func yAxis() -> [String] {
        let ticks = y.ticks.flatMap { value in
            let place = bottom - y.fraction(value) * plotHeight
            return [
                rule(left, place, right, place, "#dddddd"), rule(left - 5, place, left, place),
                text(number(value / byteUnit.factor), left - 9, place + 4, "text-anchor=\"end\""),
            ]
        }
        let middle = number(top + plotHeight / 2)
        return ticks + [
            rule(left, top, left, bottom),
            text(
                "VmPTE, \(byteUnit.name)\(y.isLogarithmic ? ", logarithmic" : "")", 18,
                top + plotHeight / 2,
                "text-anchor=\"middle\" transform=\"rotate(-90 18 \(middle))\""
            ),
        ]
    }

    private func xAxis() -> [String] {
        let ticks = x.ticks.flatMap { value in
            let place = left + x.fraction(value) * plotWidth
            return [
                rule(place, bottom, place, bottom + 5),
                text(
                    number(value / timeUnit.factor), place, bottom + 19, "text-anchor=\"middle\""),
            ]
        }
        return ticks + [
            rule(left, bottom, right, bottom),
            text(
                "simulated time, \(timeUnit.name)", left + plotWidth / 2, bottom + 40,
                "text-anchor=\"middle\""),
        ]
    }

    private func polyline(_ line: Line) -> String {
        let points = line.points.map { point in
            "\(number(left + x.fraction(point.seconds) * plotWidth)),"
                + number(bottom - y.fraction(point.bytes) * plotHeight)
        }
        // One point would draw nothing but for the cap.
        let ends = points.count == 1 ? points + points : points
        return "<polyline \(line.style.attributes) stroke-linejoin=\"round\""
            + (points.count == 1 ? " stroke-linecap=\"round\"" : "")
            + " points=\"\(ends.joined(separator: " "))\"/>"
    }

    /// A number for each line, which is at its right end, too, where there is room.
    private func legend() -> [String] {
        lines.enumerated().flatMap { index, line in
            let y = top + 8 + Double(index) * legendRow
            return [
                text("\(index + 1)", legendLeft + 14, y + 4, "text-anchor=\"end\""),
                "<line x1=\"\(number(legendLeft + 22))\" y1=\"\(number(y))\" "
                    + "x2=\"\(number(legendLeft + 80))\" y2=\"\(number(y))\" "
                    + "\(line.style.attributes)/>",
                text(line.name, legendLeft + 88, y + 4, "class=\"legend\""),
            ]
        }
    }

    /// The numbers at the right ends. Ends that are too near to each other share a label.
    private static func labels(
        _ lines: [Line], _ y: Axis, bottom: Double, plotHeight: Double
    ) -> [(text: String, y: Double)] {
        let ends = lines.enumerated().compactMap { index, line in
            line.points.last.map {
                (number: index + 1, y: bottom - y.fraction($0.bytes) * plotHeight)
            }
        }.sorted { ($0.y, $0.number) < ($1.y, $1.number) }
        var groups: [(numbers: [Int], y: Double)] = []
        for end in ends {
            if let last = groups.last, end.y - last.y < 12 {
                groups[groups.count - 1].numbers.append(end.number)
            } else {
                groups.append(([end.number], end.y))
            }
        }
        return groups.map { (list($0.numbers.sorted()), $0.y) }
    }

    /// "1-3,7"
    private static func list(_ numbers: [Int]) -> String {
        var runs: [ClosedRange<Int>] = []
        for number in numbers {
            if let last = runs.last, last.upperBound + 1 == number {
                runs[runs.count - 1] = last.lowerBound...number
            } else {
                runs.append(number...number)
            }
        }
        return runs.map {
            $0.count == 1
                ? "\($0.lowerBound)"
                : "\($0.lowerBound)\($0.count == 2 ? "," : "-")\($0.upperBound)"
        }.joined(separator: ",")
    }

    private func rule(
        _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ color: String = "#000000"
    ) -> String {
        "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" "
            + "y2=\"\(number(y2))\" stroke=\"\(color)\"/>"
    }

    private func text(_ words: String, _ x: Double, _ y: Double, _ attributes: String) -> String {
        "<text x=\"\(number(x))\" y=\"\(number(y))\" \(attributes)>\(escaped(words))</text>"
    }
}
