// SPDX-License-Identifier: Apache-2.0

internal import CPlayer
public import PageTableModel
public import ReclaimCore

/// Plays a sequence on the model and on a live process, and compares after every operation.
public final class Referee {
    /// What the live process is compared with.
    public enum Reference {
        case model(KernelProfile, Backend, ModelMistake?)
        /// A second live process: two of them must agree, or the player is no witness.
        case live(Player)
    }

    private let reference: Reference
    private let player: Player
    private let comparison: Comparison
    public private(set) var tally = Tally()
    /// What is played again to make it shorter counts no more.
    var isCounting = true
    /// Takes a line for each operation: what the kernel said, and what is there now.
    public var trace: ((String) -> Void)?

    public init(_ player: Player, against reference: Reference) {
        self.player = player
        self.reference = reference
        comparison =
            switch reference {
            case .model(let profile, _, _): Comparison(showsGuards: profile.guardsMarkVMAs)
            case .live: Comparison(showsGuards: true)
            }
    }

    /// So long the kernel may take for an operation.
    func allow(_ limit: Duration) {
        player.limit = limit
        if case .live(let other) = reference { other.limit = limit }
    }

    func count(_ mixture: Mixture) { tally.mixtures[mixture.rawValue, default: 0] += 1 }

    /// Plays `operations` from an empty field on.
    /// - Parameter shouldStop: asked after each operation; a sequence that is broken off is fine.
    public func play(
        _ operations: [Operation], shouldStop: () -> Bool = { false }
    ) throws(Disagreement) {
        let before = tally
        defer { if !isCounting { tally = before } }
        tally.sequences += 1
        let forks = operations.contains(.fork)
        do throws(RunnerError) {
            try player.reset()
            if forks { try player.prepareForForks() }
        } catch {
            throw lost(error, index: nil)
        }
        let opponent = try opponent(forks: forks)
        for (index, operation) in operations.enumerated() {
            if shouldStop() { return }
            guard !opponent.isEndless(operation) else {
                tally.left += 1
                continue
            }
            let step: Player.Step
            do throws(RunnerError) { step = try player.play(operation) } catch {
                throw lost(error, index: index)
            }
            tally.count(operation, errno: step.errno)
            if let trace { trace("\(operation.text): \(Comparison.text(step))") }
            let answer: Player.Step
            do throws(RunnerError) {
                answer = try opponent.answer(operation, seen: step, tally: &tally)
            } catch {
                throw lost(error, index: index)
            }
            if let (kind, text) = difference(step, answer) {
                throw Disagreement(kind, index: index, text)
            }
        }
        if let broken = opponent.brokenInvariants().first {
            throw Disagreement(.invariant, index: operations.count - 1, broken)
        }
    }

    private func difference(
        _ here: Player.Step, _ model: Player.Step
    ) -> (kind: Disagreement.Kind, text: String)? {
        if here.errno != model.errno {
            return (
                .errno,
                "errno: \(Errno.text(here.errno)) here, \(Errno.text(model.errno)) on the model"
            )
        }
        if let found = comparison.difference(here: here.seen, model: model.seen) { return found }
        guard let child = here.child else { return nil }
        guard let modelled = model.child else { return (.child, "the model has no child") }
        return comparison.difference(here: child, model: modelled).map {
            (.child, "in the child, \($0.text)")
        }
    }

    private func opponent(forks: Bool) throws(Disagreement) -> any Opponent {
        switch reference {
        case .model(let profile, let backend, let mistake):
            let model = ModelSpace(profile: profile, backend: backend)
            model.mistake = mistake
            model.hasSwap = KernelSettings.hasSwap
            return ModelOpponent(model: model)
        case .live(let other):
            do throws(RunnerError) {
                try other.reset()
                if forks { try other.prepareForForks() }
            } catch {
                throw lost(error, index: nil)
            }
            return LiveOpponent(player: other)
        }
    }

    /// The player is given up, and another takes its place.
    private func lost(_ error: RunnerError, index: Int?) -> Disagreement {
        var hasEnded: Bool
        do throws(RunnerError) {
            hasEnded = try player.restart()
            if case .live(let other) = reference { hasEnded = try other.restart() && hasEnded }
        } catch let second {
            return Disagreement(.stuck, index: index, "\(error), and then: \(second)")
        }
        let kind: Disagreement.Kind =
            switch error {
            case .didNotReturn: hasEnded ? .endless : .stuck
            // An oops ends a process, too, whatever it held.
            case .ended: .stuck
            default: .player
            }
        return Disagreement(kind, index: index, "\(error)")
    }
}

/// Whoever says what should have happened.
private protocol Opponent {
    func isEndless(_ operation: Operation) -> Bool
    func answer(
        _ operation: Operation, seen: Player.Step, tally: inout Tally
    ) throws(RunnerError) -> Player.Step
    func brokenInvariants() -> [String]
}

private struct ModelOpponent: Opponent {
    let model: ModelSpace

    func isEndless(_ operation: Operation) -> Bool { model.isEndless(operation) }
    func brokenInvariants() -> [String] { model.brokenInvariants() }

    func answer(
        _ operation: Operation, seen: Player.Step, tally: inout Tally
    ) throws(RunnerError) -> Player.Step {
        var errno: Int32 = 0
        do throws(ModelError) { try model.play(operation) } catch { errno = error.errno }
        let adoption = model.adopt(
            seen.seen, Field.windows, errno: seen.errno, modelErrno: errno)
        for outcome in adoption.outcomes { tally.outcomes[outcome.rawValue, default: 0] += 1 }
        var step = Player.Step(errno: adoption.errno, seen: model.observe(Field.windows))
        if operation == .fork {
            do throws(ModelError) { step.child = try model.forked().observe(Field.windows) } catch {
                step.errno = error.errno
            }
        }
        return step
    }
}

private struct LiveOpponent: Opponent {
    let player: Player

    func isEndless(_ operation: Operation) -> Bool { false }
    func brokenInvariants() -> [String] { [] }

    func answer(
        _ operation: Operation, seen: Player.Step, tally: inout Tally
    ) throws(RunnerError) -> Player.Step { try player.play(operation) }
}

/// The kernel's names of its errors.
enum Errno {
    private static let names: [Int32: String] = [
        1: "EPERM", 2: "ENOENT", 9: "EBADF", 11: "EAGAIN", 12: "ENOMEM", 13: "EACCES", 14: "EFAULT",
        16: "EBUSY", 17: "EEXIST", 22: "EINVAL", 25: "ENOTTY", 28: "ENOSPC", 38: "ENOSYS",
        95: "EOPNOTSUPP", 133: "EHWPOISON",
    ]

    static func text(_ number: Int32) -> String {
        number == 0 ? "none" : names[number] ?? "\(number)"
    }
}
