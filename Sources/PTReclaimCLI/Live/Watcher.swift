// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Glibc
internal import ProcFS

/// What happened to a process that is watched.
enum WatchEvent {
    case forked(Int32)
    case executed(String)
    case ended

    var text: String {
        switch self {
        case .forked(let child): "forked \(child)"
        case .executed(let program): "executed \(program)"
        case .ended: "has ended"
        }
    }
}

/// One look at a process that is watched.
struct WatchSample {
    let time: Date
    /// Nil once the process has ended.
    let glance: ProcessGlance?
    /// The last one that was taken, of this program; nil where there is none.
    let census: PageTableCensus?
    let censusAge: Duration?
    /// Why there is no newer census, in words, where it is not for its price.
    let censusFailure: String?
    let library: Result<StatsPage, ProcFSError>
    let events: [WatchEvent]
}

/// Looks at a process again and again, and notices what it does meanwhile.
///
/// VmPTE and RSS come from one small file, each time. What costs more is looked at as its price
/// allows.
struct Watcher {
    /// Of one core, at most.
    static let censusPercent = 0.25

    let pid: Int32
    private var identity: ProcessIdentity
    private var children: Set<Int32>?
    private var census: (value: PageTableCensus, time: ContinuousClock.Instant)?
    private var censusFailure: String?
    private var library: Result<StatsPage, ProcFSError>
    private(set) var censusPace = Paced(share: censusPercent / 100)
    private var libraryPace = Paced(share: 0.0005)
    private var childrenPace = Paced(share: 0.0005)

    /// - Throws: as `PageTableCensus.take`.
    init(pid: Int32) throws(ProcFSError) {
        self.pid = pid
        identity = try ProcessIdentity(pid: pid)
        let start = ContinuousClock.now
        let taken = censusPace.look(at: start) { Self.census(of: pid) }
        census = (try taken.get(), start)
        library = libraryPace.look(at: start) { Self.library(of: pid) }
        children = childrenPace.look(at: start) { ProcessList.children(of: pid) }
    }

    private static func census(of pid: Int32) -> Result<PageTableCensus, ProcFSError> {
        Result { () throws(ProcFSError) in try PageTableCensus.take(pid: pid) }
    }

    private static func library(of pid: Int32) -> Result<StatsPage, ProcFSError> {
        Result { () throws(ProcFSError) in try StatsPage.read(pid: pid) }
    }

    /// Has the next sample look at everything, whatever it costs.
    mutating func hurry() {
        censusPace.hurry()
        libraryPace.hurry()
    }

    mutating func sample() -> WatchSample {
        let now = ContinuousClock.now
        let events: [WatchEvent]
        let glance: ProcessGlance
        do throws(ProcFSError) {
            glance = try ProcessGlance(pid: pid)
            guard let seen = try lookForEvents(glance, at: now) else { return ended() }
            events = seen
        } catch {
            return ended()
        }
        if libraryPace.isDue(at: now) {
            library = libraryPace.look(at: now) { [pid] in Self.library(of: pid) }
        }
        if censusPace.isDue(at: now) {
            switch censusPace.look(at: now, { [pid] in Self.census(of: pid) }) {
            case .success(let value):
                census = (value, now)
                censusFailure = value.unknown.first
            case .failure(let error): censusFailure = "\(error)"
            }
        }
        return WatchSample(
            time: Date(), glance: glance, census: census?.value,
            censusAge: census.map { now - $0.time }, censusFailure: censusFailure,
            library: library, events: events)
    }

    private func ended() -> WatchSample {
        WatchSample(
            time: Date(), glance: nil, census: nil, censusAge: nil, censusFailure: nil,
            library: library, events: [.ended])
    }

    /// Nil where another process has the ID by now.
    private mutating func lookForEvents(
        _ glance: ProcessGlance, at now: ContinuousClock.Instant
    ) throws(ProcFSError) -> [WatchEvent]? {
        var events: [WatchEvent] = []
        let identity = try ProcessIdentity(pid: pid)
        guard identity.isSameProcess(as: self.identity) else { return nil }
        if identity.hasExecuted(since: self.identity) {
            events.append(.executed(identity.executable ?? glance.command))
            // What was seen of the program before says nothing about this one.
            census = nil
            hurry()
        }
        self.identity = identity
        if childrenPace.isDue(at: now) {
            let children = childrenPace.look(at: now) { [pid] in ProcessList.children(of: pid) }
            let new = children?.subtracting(self.children ?? []) ?? []
            events += new.sorted().map { .forked($0) }
            self.children = children ?? self.children
        }
        return events
    }
}
