// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The geometric mean of ratios, with its 95 % interval by Student's t on the logarithms.
struct RatioEstimate: Codable {
    let mean: Double
    let low: Double
    let high: Double
    let pairCount: Int

    /// nil with fewer than three ratios.
    init?(_ ratios: [Double]) {
        guard ratios.count >= 3 else { return nil }
        let logarithms = ratios.map { log($0) }
        let count = Double(logarithms.count)
        let center = logarithms.reduce(0, +) / count
        let squares = logarithms.reduce(0) { $0 + ($1 - center) * ($1 - center) }
        let halfWidth =
            Self.t975(degreesOfFreedom: logarithms.count - 1)
            * (squares / (count - 1) / count).squareRoot()
        mean = exp(center)
        low = exp(center - halfWidth)
        high = exp(center + halfWidth)
        pairCount = ratios.count
    }

    /// Whether the interval is ± 1 % or narrower.
    var isResolved: Bool { (high - low) / 2 <= 0.01 }

    var text: String {
        "\(decimal(mean, 4)) [\(decimal(low, 4)), \(decimal(high, 4))]"
    }

    /// The 97.5 % quantile of Student's t: the Cornish-Fisher expansion around the normal one,
    /// right to three digits from three degrees of freedom on.
    static func t975(degreesOfFreedom: Int) -> Double {
        precondition(degreesOfFreedom >= 1)
        if degreesOfFreedom == 1 { return 12.706 }
        if degreesOfFreedom == 2 { return 4.303 }
        let n = Double(degreesOfFreedom)
        let z = 1.959964
        let z2 = z * z
        let g1 = (z2 + 1) * z / 4
        let g2 = ((5 * z2 + 16) * z2 + 3) * z / 96
        let g3 = (((3 * z2 + 19) * z2 + 17) * z2 - 15) * z / 384
        let g4 = ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) * z / 92160
        return z + (g1 + (g2 + (g3 + g4 / n) / n) / n) / n
    }
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return .nan }
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
