// SPDX-License-Identifier: Apache-2.0

internal import CPlayer
internal import LiveSpace
public import PageTableModel
internal import ReclaimCore

/// A whole run: sequence after sequence, each failure made short and told.
public final class ConformanceRun {
    public struct Options: Sendable {
        public var sequences = 200
        public var seed: UInt64 = 1
        public var operations = 200
        /// Failures after which it is enough.
        public var stopAfter = 1
        public var shrinks = true
        public var limit: Duration?
        public var without: Set<Mixture> = []
        public var mistake: ModelMistake?
        public var profile: (name: String, profile: KernelProfile)
        /// Compares with a second live process in place of the model.
        public var isAgainstItself = false
        /// Tells of every operation.
        public var traces = false

        public init(profile: (name: String, profile: KernelProfile)) { self.profile = profile }
    }

    /// Nothing can be played here, and why.
    public struct CannotRun: Error, CustomStringConvertible {
        public let description: String
    }

    private let options: Options
    private let print: (String) -> Void
    private let backend: Backend
    private let settings: KernelSettings
    private let referee: Referee
    private let start = ContinuousClock.now
    public private(set) var failures = 0

    /// - Parameter print: takes a line.
    public init(_ options: Options, print: @escaping (String) -> Void) throws(CannotRun) {
        self.options = options
        self.print = print
        guard let backend = LiveSpace.probeBackend() else {
            throw CannotRun(description: "nothing that we know frees page tables on this kernel")
        }
        self.backend = backend
        ptreclaim_remember_signals()
        do throws(KernelSettings.Failure) {
            settings = try KernelSettings(
                patience: .seconds(600), wantsPool: !options.without.contains(.hugetlb))
        } catch {
            throw CannotRun(description: "\(error)")
        }
        guard ProcessObserver.canTellZeros else {
            settings.restore()
            throw CannotRun(
                description: "/proc/self/pagemap and /proc/kpageflags show no frames (needs root)")
        }
        do throws(RunnerError) {
            let player = try Player()
            let reference: Referee.Reference =
                options.isAgainstItself
                ? .live(try Player())
                : .model(options.profile.profile, backend, options.mistake)
            referee = Referee(player, against: reference)
        } catch {
            settings.restore()
            throw CannotRun(description: "\(error)")
        }
    }

    private func traceIfAsked() {
        if options.traces { referee.trace = print }
    }

    /// Plays sequences made from seeds; false where there was a disagreement.
    public func playSequences() -> Bool {
        var limits = Generator.Limits(hasSwap: KernelSettings.hasSwap, without: options.without)
        if !settings.hasPool, limits.without.insert(.hugetlb).inserted {
            print("without hugetlb: the pool has too few free pages, and got no more")
        }
        if !limits.hasSwap { print("without pageout: no swap is in use") }
        traceIfAsked()
        for index in 0..<options.sequences where !isOver {
            let seed = options.seed &+ UInt64(index)
            let (mixture, operations) = Generator.sequence(
                seed: seed, count: options.operations, limits: limits)
            referee.count(mixture)
            play(operations, title: "seed \(seed) (\(mixture))")
            if (index + 1) % 100 == 0 { print(progress(index + 1)) }
        }
        finish()
        return failures == 0
    }

    /// Plays one sequence; false where there was a disagreement.
    public func replay(_ operations: [Operation]) -> Bool {
        traceIfAsked()
        play(operations, title: "replay")
        finish()
        return failures == 0
    }

    private func finish() {
        referee.tally.lines.forEach(print)
        print(
            "\(referee.tally.sequences) sequences, \(speed), profile \(options.profile.name), "
                + "backend \(backend), \(failures) disagreements")
        settings.restore()
    }

    /// The signal that ended the run before its time, or nil.
    public var endingSignal: Int32? {
        let signal = ptreclaim_remembered_signal()
        return signal == 0 ? nil : signal
    }

    private var elapsed: Duration { ContinuousClock.now - start }

    private var isOver: Bool {
        failures >= options.stopAfter || shouldStop
    }

    private var shouldStop: Bool {
        endingSignal != nil || options.limit.map { elapsed > $0 } ?? false
    }

    private func progress(_ count: Int) -> String {
        "\(count) sequences, \(speed), \(failures) disagreements"
    }

    private var speed: String {
        let seconds = max(elapsed / .seconds(1), 0.001)
        let operations = referee.tally.operations
        return "\(operations) operations, \(Int(Double(operations) / seconds)) a second"
    }

    private func play(_ operations: [Operation], title: String) {
        do throws(Disagreement) {
            try referee.play(operations) { shouldStop }
        } catch {
            failures += 1
            report(error, operations, title: title)
        }
    }

    // MARK: - Failures

    private func report(_ failure: Disagreement, _ operations: [Operation], title: String) {
        let place =
            failure.index.map { "operation \($0), \(operations[$0].text)" } ?? "at the start"
        print("DISAGREEMENT in \(title), \(place): \(failure.text)")
        // What comes after the failure did not cause it.
        let cause = Array(operations.prefix((failure.index ?? operations.count - 1) + 1))
        // A kernel that hung once would hang, and keep a process, each time.
        let (short, words) =
            options.shrinks && failure.kind != .stuck
            ? shrink(cause, failure) : (cause, failure.text)
        print("# \(short.count) operations: \(words)")
        print(short.text)
        print(Self.testCase(short, title: title, words: words))
    }

    private func shrink(
        _ operations: [Operation], _ failure: Disagreement
    ) -> ([Operation], String) {
        referee.trace = nil
        referee.isCounting = false
        // What hangs shows that sooner than a slow machine is slow.
        if failure.kind == .endless { referee.allow(.seconds(1)) }
        defer {
            traceIfAsked()
            referee.isCounting = true
            referee.allow(Player.limit)
        }
        var words = failure.text
        let shrinker = Shrinker { [referee] candidate in
            guard ptreclaim_remembered_signal() == 0 else { return false }
            do throws(Disagreement) {
                try referee.play(candidate)
                return false
            } catch {
                // Another failure is not a shorter form of this one.
                guard error.kind == failure.kind else { return false }
                words = error.text
                return true
            }
        }
        return (shrinker.shrink(operations), words)
    }

    /// To be pasted into RegressionTests.swift.
    static func testCase(_ operations: [Operation], title: String, words: String) -> String {
        let lines = operations.map { "            \($0.text)\n" }.joined()
        return """
                /// \(title): \(words)
                @Test func regression\(operations.text.stableHash)() async throws {
                    try await expectAgreement(
                        \"\"\"
            \(lines)            \"\"\")
                }
            """
    }
}

extension String {
    /// The same in every run, unlike `hashValue`: FNV-1a.
    fileprivate var stableHash: String {
        let hash = utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) {
            ($0 ^ UInt64($1)) &* 0x100_0000_01b3
        }
        return String(hash, radix: 16)
    }
}
