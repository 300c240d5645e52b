// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Conformance
internal import Foundation
internal import Glibc
internal import PageTableModel

struct Conform: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Plays random operations on the model and on the running kernel, and compares.",
        usage: "ptreclaim conform [<options>]",
        discussion: """
            After every operation errno, VmPTE, the mappings and the state of every page must be \
            the same. A sequence that fails is made short, and printed as text for --replay and as \
            a test. Needs root, and holds khugepaged still while it runs.

            Exit status: 0 no disagreement, 1 a disagreement, 2 usage, 77 cannot run here.

            Examples:
              ptreclaim conform --sequences 1000 --seed 7
              ptreclaim conform --replay failure.txt
              ptreclaim conform --without hugetlb --seconds 60
            """)

    @Option(help: ArgumentHelp("How many sequences.", valueName: "count")) var sequences = 200
    @Option(help: ArgumentHelp("Seed of the first; each has the next.", valueName: "number"))
    var seed: UInt64 = 1
    @Option(help: ArgumentHelp("Operations in a sequence.", valueName: "count"))
    var operations = 200
    @Option(
        help: ArgumentHelp(
            "Kernel that the model is: \(KernelRelease.profiled.joined(separator: ", ")). Without "
                + "it the one that runs.", valueName: "release"),
        completion: .list(KernelRelease.profiled))
    var profile: String?
    @Option(
        help: ArgumentHelp(
            "Play the operations of a file, or of - for stdin.", valueName: "file"),
        completion: .file())
    var replay: String?
    @Option(
        help: ArgumentHelp(
            "Make the model wrong in one way: the run must find it.", valueName: "name"),
        completion: .list(ModelMistake.allCases.map(\.rawValue)))
    var mistake: String?
    @Option(help: ArgumentHelp("Stop after so many failures.", valueName: "count"))
    var stopAfter = 1
    @Flag(help: "Print sequences that fail as they are.") var noShrink = false
    @Option(help: "Start nothing new after so many seconds.") var seconds: Int?
    @Option(
        help: ArgumentHelp(
            "Leave a kind of sequences out: \(Mixture.names).", valueName: "kind"),
        completion: .list(Mixture.allCases.map(\.rawValue)))
    var without: [String] = []
    @Flag(help: "Print what is there after each operation.") var trace = false
    @Flag(help: .hidden) var againstItself = false

    func validate() throws {
        guard sequences > 0, operations > 0, stopAfter > 0, seconds ?? 1 > 0 else {
            throw ValidationError("Counts are positive numbers.")
        }
        for name in without where Mixture(rawValue: name) == nil {
            throw ValidationError("--without takes one of \(Mixture.names).")
        }
        guard Set(without).count < Mixture.allCases.count else {
            throw ValidationError("Nothing is left to be played.")
        }
        if let profile, KernelProfile.named(profile) == nil {
            throw ValidationError(
                "--profile takes one of \(KernelRelease.profiled.joined(separator: ", ")).")
        }
        if let mistake, ModelMistake(rawValue: mistake) == nil {
            let names = ModelMistake.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--mistake takes one of \(names).")
        }
    }

    func run() throws {
        let replayed = try replay.map { try Self.operations(in: $0) }
        guard
            let profile = profile.flatMap({ name in KernelProfile.named(name).map { (name, $0) } })
                ?? KernelProfile.ofRunningKernel
        else { skip("no profile describes Linux \(KernelRelease.running)") }
        var options = ConformanceRun.Options(profile: profile)
        options.sequences = sequences
        options.seed = seed
        options.operations = operations
        options.stopAfter = stopAfter
        options.shrinks = !noShrink
        options.limit = seconds.map { .seconds($0) }
        options.without = Set(without.compactMap { Mixture(rawValue: $0) })
        options.mistake = mistake.flatMap { ModelMistake(rawValue: $0) }
        options.isAgainstItself = againstItself
        options.traces = trace
        guard geteuid() == 0 else { skip("needs root") }
        let run: ConformanceRun
        do throws(ConformanceRun.CannotRun) {
            run = try ConformanceRun(options) { line in
                // At once: a run may take an hour.
                print(line)
                if let failure = StandardOutput.flush() {
                    PTReclaimCommand.fail(failure, command: "conform")
                }
            }
        } catch {
            skip("\(error)")
        }
        let agrees = replayed.map { run.replay($0) } ?? run.playSequences()
        // A run that was broken off shows nothing.
        Glibc.exit(agrees ? run.endingSignal.map { 128 + $0 } ?? 0 : 1)
    }

    private func skip(_ reason: String) -> Never {
        PTReclaimCommand.fail("cannot run here: \(reason)", command: "conform", status: 77)
    }

    private static func operations(in path: String) throws -> [PageTableModel.Operation] {
        let data: Data
        do {
            data =
                path == "-"
                ? try FileHandle.standardInput.readToEnd() ?? Data()
                : try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            PTReclaimCommand.fail(
                "\(path): \(FileError.reason(error))", command: "conform", status: 2)
        }
        do throws(OperationTextError) {
            return try [PageTableModel.Operation](text: String(decoding: data, as: UTF8.self))
        } catch {
            PTReclaimCommand.fail("\(path): \(error)", command: "conform", status: 2)
        }
    }
}

extension Mixture {
    static var names: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
