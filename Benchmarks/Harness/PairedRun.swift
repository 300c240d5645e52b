// SPDX-License-Identifier: Apache-2.0

/// The same work with the shim and without, in alternating windows.
struct PairedRun {
    /// What one window took.
    struct Figures: Codable {
        let operationsPerSecond: Double
        let cpuPerOperation: Double
        let seconds: Double
    }

    /// Two windows, one behind the other.
    struct Pair: Codable {
        let plain: Figures
        let shim: Figures
    }

    struct Result: Codable {
        let pairs: [Pair]
        let cpu: RatioEstimate
        let rate: RatioEstimate

        var shimSeconds: Double { pairs.reduce(0) { $0 + $1.shim.seconds } }

        /// nil with fewer than three pairs.
        init?(_ pairs: [Pair]) {
            guard
                let cpu = RatioEstimate(
                    pairs.map { $0.shim.cpuPerOperation / $0.plain.cpuPerOperation }),
                let rate = RatioEstimate(
                    pairs.map { $0.shim.operationsPerSecond / $0.plain.operationsPerSecond })
            else { return nil }
            self.pairs = pairs
            self.cpu = cpu
            self.rate = rate
        }

        /// Of fewer pairs the interval is a matter of luck.
        private var isLong: Bool { cpu.pairCount >= PairedRun.leastPairCount }

        /// - Parameter name: what was run, for the verdicts.
        func verdicts(_ name: String) -> [Verdict] {
            [
                Self.verdict(
                    "\(name): CPU per operation, shim / plain, at most 1.01", cpu,
                    isMet: cpu.mean <= PairedRun.cpuAllowed,
                    isMissed: cpu.low > PairedRun.cpuAllowed && isLong),
                Self.verdict(
                    "\(name): operations per second, shim / plain, at least 0.99", rate,
                    isMet: rate.mean >= PairedRun.rateWanted,
                    isMissed: rate.high < PairedRun.rateWanted && isLong),
            ]
        }

        private static func verdict(
            _ target: String, _ ratio: RatioEstimate, isMet: Bool, isMissed: Bool
        ) -> Verdict {
            let status: Verdict.Status =
                isMissed
                ? .failed : !ratio.isResolved ? .notResolved : isMet ? .passed : .failed
            return Verdict(
                target: target, status: status,
                measured: "\(ratio.text), 95 %, \(ratio.pairCount) pairs")
        }
    }

    static let cpuAllowed = 1.01
    static let rateWanted = 0.99
    private static let leastPairCount = 6

    let name: String
    /// The most pairs; fewer when both intervals are within 1 %.
    let pairs: Int

    /// - Parameter window: does the work once, with the shim or without.
    func play(_ window: (_ hasShim: Bool) throws -> Figures) throws -> Result {
        var played: [Pair] = []
        while played.count < pairs {
            // A B, B A, A B, …: what drifts falls on both alike.
            let shimFirst = played.count % 2 == 1
            let first = try window(shimFirst)
            let second = try window(!shimFirst)
            let (plain, shim) = shimFirst ? (second, first) : (first, second)
            played.append(Pair(plain: plain, shim: shim))
            let result = Result(played)
            Progress.show(
                played.count, of: pairs, "\(name): CPU shim / plain \(result?.cpu.text ?? "")")
            if played.count >= Self.leastPairCount, let result, result.cpu.isResolved,
                result.rate.isResolved
            {
                break
            }
        }
        Progress.end()
        guard let result = Result(played) else { throw HarnessError("too few pairs") }
        return result
    }
}
