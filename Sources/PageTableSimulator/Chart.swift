// SPDX-License-Identifier: Apache-2.0

/// Lines over time, as SVG.
public enum Chart {
    public static func svg(
        title: String, series: [(name: String, points: [(seconds: Double, bytes: Double)])]
    ) -> String {
        "<svg xmlns=\"http://www.w3.org/2000/svg\"><title>\(title)</title></svg>\n"
    }
}
