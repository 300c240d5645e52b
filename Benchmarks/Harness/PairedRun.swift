// SPDX-License-Identifier: Apache-2.0

/// The same work with the shim and without, in alternating windows.
struct PairedRun {
    /// What one window took.
    struct Figures {
        let operationsPerSecond: Double
        let cpuPerOperation: Double
        let seconds: Double
    }

    struct Result: Encodable {
        let cpu: RatioEstimate
        let rate: RatioEstimate
        let shimSeconds: Double

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
        var cpuRatios: [Double] = []
        var rateRatios: [Double] = []
        var shimSeconds = 0.0
        while cpuRatios.count < pairs {
            // A B, B A, A B, …: what drifts falls on both alike.
            let shimFirst = cpuRatios.count % 2 == 1
            let first = try window(shimFirst)
            let second = try window(!shimFirst)
            let (plain, shim) = shimFirst ? (second, first) : (first, second)
            cpuRatios.append(shim.cpuPerOperation / plain.cpuPerOperation)
            rateRatios.append(shim.operationsPerSecond / plain.operationsPerSecond)
            shimSeconds += shim.seconds
            let cpu = RatioEstimate(cpuRatios)
            Progress.show(
                cpuRatios.count, of: pairs, "\(name): CPU shim / plain \(cpu?.text ?? "")")
            if cpuRatios.count >= Self.leastPairCount, cpu?.isResolved == true,
                RatioEstimate(rateRatios)?.isResolved == true
            {
                break
            }
        }
        Progress.end()
        guard let cpu = RatioEstimate(cpuRatios), let rate = RatioEstimate(rateRatios) else {
            throw HarnessError("too few pairs")
        }
        return Result(cpu: cpu, rate: rate, shimSeconds: shimSeconds)
    }
}
