// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import TextTable
internal import TraceFile

/// The replay of a recorded workload, as a command shows it.
struct SimulateTrace {
    let tracePath: String
    let csvPath: String?

    private static let mostRows = 24

    /// Prints the samples, thinned, and how far off the prediction was. Ends the program with
    /// status 2 and one line where the trace is no good, with 1 where the CSV cannot be written.
    func run(command: String) {
        let reader: TraceReader
        let replay: TraceReplay
        do {
            reader = try TraceReader(path: tracePath)
            replay = try TraceReplay(reader)
        } catch {
            PTReclaimCommand.fail("\(error)", command: command, status: 2)
        }
        if let csvPath { OutputFile(path: csvPath, command: command).write(csv(replay)) }
        print(table(replay))
        print(summary(reader.header, replay))
    }

    private func csv(_ replay: TraceReplay) -> String {
        var lines = [
            "seconds,vm_pte_bytes,measured_growth_bytes,predicted_growth_bytes,difference_bytes"
        ]
        for sample in replay.samples {
            let numbers = [
                sample.vmPTEByteCount, sample.measured, sample.predicted, sample.difference,
            ]
            lines.append(
                ([seconds(sample)] + numbers.map { "\($0)" }).joined(separator: ","))
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private func table(_ replay: TraceReplay) -> String {
        let table = TextTable<TraceReplay.Sample> { sample in
            [
                Column(title: "seconds", value: seconds(sample), align: .right),
                Column(title: "measured kB", value: kilobytes(sample.measured), align: .right),
                Column(title: "predicted kB", value: kilobytes(sample.predicted), align: .right),
                Column(title: "difference kB", value: kilobytes(sample.difference), align: .right),
            ]
        }
        return table.string(for: replay.thinned(to: Self.mostRows)) ?? ""
    }

    private func summary(_ header: TraceReader.Header, _ replay: TraceReplay) -> String {
        var lines = ["\(replay.eventCount) events and \(replay.samples.count) samples"]
        if let (median, furthest) = replay.medianAndFurthest {
            lines.append(
                "difference: median \(size(median)), furthest \(size(furthest)) of VmPTE, at "
                    + "\(seconds(furthest)) s")
        } else {
            lines.append("no sample but the first: nothing to compare")
        }
        if header.droppedCount > 0 {
            lines.append(
                "\(header.droppedCount) events were dropped: the file was full "
                    + "(PTRECLAIM_TRACE_MB)")
        }
        if replay.otherZapCount > 0 {
            lines.append("\(replay.otherZapCount) events zap other spans than the library did")
        }
        if replay.misfitCount > 0 {
            lines.append("\(replay.misfitCount) events are of memory that is not mapped")
        }
        return lines.joined(separator: "\n")
    }

    private func size(_ sample: TraceReplay.Sample) -> String {
        "\(kilobytes(abs(sample.difference))) kB (\(decimal(sample.differencePercent, places: 1)) %)"
    }

    private func seconds(_ sample: TraceReplay.Sample) -> String {
        decimal(Double(sample.nanoseconds) / 1e9, places: 3)
    }

    private func decimal(_ value: Double, places: Int) -> String {
        String(format: "%.\(places)f", value)
    }

    private func kilobytes(_ byteCount: Int) -> String { "\(byteCount / 1024)" }
}
