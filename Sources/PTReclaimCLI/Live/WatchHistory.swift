// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// What the screen of `watch` remembers.
struct WatchHistory {
    private static let capacity = 1000
    private static let noteCapacity = 50

    private(set) var samples: [WatchSample] = []
    /// What happened, newest last.
    private(set) var notes: [(time: Date, text: String)] = []

    /// The last one of a living process.
    var last: WatchSample? { samples.last }

    mutating func add(_ sample: WatchSample) {
        for event in sample.events { note(event.text, at: sample.time) }
        guard sample.glance != nil else { return }
        samples.append(sample)
        if samples.count > Self.capacity { samples.removeFirst() }
    }

    mutating func note(_ text: String, at time: Date = Date()) {
        notes.append((time, text))
        if notes.count > Self.noteCapacity { notes.removeFirst() }
    }

    /// What the library counted since the sample before; nil where it is not known of both.
    func growth(of counter: String) -> UInt64? {
        guard let after = count(counter, in: samples.last),
            let before = count(counter, in: samples.dropLast().last)
        else { return nil }
        // A gauge may fall, and an exec begins anew.
        return after >= before ? after - before : nil
    }

    private func count(_ counter: String, in sample: WatchSample?) -> UInt64? {
        guard let sample, case .success(let page) = sample.library else { return nil }
        return page[counter]
    }
}
