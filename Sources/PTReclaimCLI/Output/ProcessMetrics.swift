// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS
internal import ReclaimCore

/// What Prometheus gets of one process: its page tables, and what the preload library did there.
struct ProcessMetrics {
    /// The preload library in a process.
    enum Library {
        case absent
        /// Loaded in the parent before a fork; the child has had no event yet, and no page.
        case silent
        case loaded(StatsPage)

        /// - Throws: `.badStatsPage` where the library is another version's, `.unreadable`.
        init(pid: Int32) throws(ProcFSError) {
            do throws(ProcFSError) {
                self = .loaded(try StatsPage.read(pid: pid))
            } catch  where error.code == .noStatsPage {
                self = .absent
            } catch  where error.code == .parentsStatsPage {
                self = .silent
            }
        }

        var isAbsent: Bool { if case .absent = self { true } else { false } }
    }

    private let library: Library
    private let census: PageTableCensus
    private let labels: Exposition.Labels

    /// - Throws: as `PageTableCensus.take`.
    init(pid: Int32, library: Library) throws(ProcFSError) {
        self.library = library
        census = try PageTableCensus.take(pid: pid)
        labels = Exposition.Labels(pairs: [
            ("pid", "\(pid)"), ("command", Self.command(pid: pid) ?? census.command),
        ])
    }

    /// Sentences, where something is left out.
    var unknown: [String] { census.unknown }

    func add(to exposition: inout Exposition) {
        add(
            "loaded", "Whether the preload library is loaded.", library.isAbsent ? 0 : 1,
            &exposition)
        add(
            "vm_pte_bytes", "VmPTE: the page tables of the process.", census.vmPTEByteCount,
            &exposition)
        add(
            "needed_bytes", "Page tables that the live pages need.", census.neededByteCount,
            &exposition)
        add(
            "waste_bytes", "VmPTE minus what the live pages need.", census.wasteByteCount,
            &exposition)
        add("pmd_pud_bytes", "PMD and PUD tables.", census.pmdPUDByteCount, &exposition)
        add(
            "live_tables", "PTE tables with a page.", census.tables.live.map { UInt($0) },
            &exposition)
        add(
            "empty_tables", "PTE tables without any page.", census.tables.empty.map { UInt($0) },
            &exposition)
        add(
            "reclaimable_tables", "Of the empty tables, those that lie inside one mapping.",
            census.tables.reclaimable.map { UInt($0) }, &exposition)
        if case .loaded(let page) = library { add(page, to: &exposition) }
    }

    /// A gauge; what is unknown is left out.
    private func add(
        _ name: String, _ help: String, _ value: UInt?, _ exposition: inout Exposition
    ) {
        guard let value else { return }
        exposition.add("ptreclaim_\(name)", .gauge, help, labels, "\(value)")
    }

    private func add(_ page: StatsPage, to exposition: inout Exposition) {
        exposition.add(
            "ptreclaim_info", .gauge,
            "How the library frees tables in the process; the version is that of ptreclaim.",
            labels.adding("mode", page.mode).adding("backend", StatsJSON.backendName(page))
                .adding("version", PTReclaimCommand.version), "1")
        add(
            "switched_off", "Whether ptreclaim ctl has switched the library off.",
            page.isOff ? 1 : 0, &exposition)
        // A meaning may be about the counter above it.
        var whole = ""
        for counter in page.counters where counter.group != .refusal {
            let metric = CounterMetric(counter)
            if !counter.meaning.contains("of these") { whole = metric.name }
            let help = counter.meaning.replacing("of these", with: "of \(whole)")
                .replacing(" (a gauge)", with: "")
            exposition.add(
                metric.name, metric.kind, help.prefix(1).uppercased() + help.dropFirst(), labels,
                metric.value)
        }
        for counter in page.counters where counter.group == .refusal {
            exposition.add(
                "ptreclaim_refusals_total", .counter,
                "Times that the library, or an arena, was left alone.",
                labels.adding("reason", String(counter.name.trimmingPrefix("refused_"))),
                "\(counter.value)")
        }
        addKept(page, to: &exposition)
        addFences(page, to: &exposition)
    }

    private func addKept(_ page: StatsPage, to exposition: inout Exposition) {
        let counts = Dictionary(uniqueKeysWithValues: page.kept.map { ($0.reason, $0.count) })
        let known = (0..<UInt8(KeptReason.count)).compactMap { KeptReason(rawValue: $0) }
            .map { "\($0.name)" }
        // A rate needs the zero before the first one.
        for reason in known + counts.keys.filter({ !known.contains($0) }).sorted() {
            exposition.add(
                "ptreclaim_tables_kept_total", .counter,
                "Tables that were to be freed and stay.", labels.adding("reason", reason),
                "\(counts[reason, default: 0])")
        }
    }

    private func addFences(_ page: StatsPage, to exposition: inout Exposition) {
        func add(_ suffix: String, _ labels: Exposition.Labels, _ value: String) {
            exposition.add(
                "ptreclaim_fence_met_seconds", .histogram,
                "Fences at which a thread had to wait, by the length of the fence.", labels, value,
                suffix: suffix)
        }
        let counts = page.fencesMetByMicroseconds
        var sum: UInt64 = 0
        for (index, count) in counts.enumerated() {
            // The page may hold any number.
            let (whole, isTooLarge) = sum.addingReportingOverflow(count)
            sum = isTooLarge ? .max : whole
            let bound = index < counts.count - 1 ? "\(Double(1 << index) / 1e6)" : "+Inf"
            add("_bucket", labels.adding("le", bound), "\(sum)")
        }
        add("_sum", labels, "\(Double(page["fences_met_ns"] ?? 0) / 1e9)")
        add("_count", labels, "\(sum)")
    }

    /// As the process calls itself: /proc/PID/status shows some signs escaped.
    private static func command(pid: Int32) -> String? {
        FileManager.default.contents(atPath: "/proc/\(pid)/comm").map {
            String(decoding: $0.last == UInt8(ascii: "\n") ? $0.dropLast() : $0, as: UTF8.self)
        }
    }
}

/// A counter of the stats page under the names and in the units of Prometheus.
private struct CounterMetric {
    let name: String
    let kind: Exposition.Kind
    let value: String

    /// These may sink, or are a maximum.
    private static let gauges: Set = ["tables_empty_now", "fence_longest_ns", "layout_longest_ns"]

    init(_ counter: StatsPage.Counter) {
        var base = counter.name
        let unit = ["_nanoseconds", "_ns"].first { base.hasSuffix($0) }
        if let unit { base = base.dropLast(unit.count) + "_seconds" }
        kind = Self.gauges.contains(counter.name) ? .gauge : .counter
        name = "ptreclaim_\(base)" + (kind == .counter ? "_total" : "")
        value = unit == nil ? "\(counter.value)" : "\(Double(counter.value) / 1e9)"
    }
}
