// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// The first thing that is one way on the kernel ("here") and another on the model.
public struct Disagreement: Error, Equatable, Sendable {
    public enum Kind: String, Sendable {
        case errno, vmPTE, mappings, pages, child, invariant
        /// The player could not be asked.
        case player
        /// The kernel did not return, but let go of the player when that was killed.
        case endless
        /// The kernel did not even let go: it keeps a process, and perhaps locks, each time.
        case stuck
    }

    public let kind: Kind
    /// In the sequence; nil where it is about none: between sequences.
    public let index: Int?
    public let text: String

    init(_ kind: Kind, index: Int?, _ text: String) {
        self.kind = kind
        self.index = index
        self.text = text
    }
}

/// Strict comparison, in the words of a reader.
struct Comparison {
    /// VmFlags shows `gu`.
    let showsGuards: Bool

    /// The kind and the words of the first difference; nil where there is none.
    func difference(
        here: Observation, model: Observation
    ) -> (kind: Disagreement.Kind, text: String)? {
        if let text = mappings(here.vmas, model.vmas) { return (.mappings, text) }
        if here.pages != model.pages { return (.pages, pages(here.pages, model.pages)) }
        if here.vmPTEByteCount != model.vmPTEByteCount {
            let difference = Int(here.vmPTEByteCount) - Int(model.vmPTEByteCount)
            let more = difference > 0 ? "more" : "fewer"
            return (
                .vmPTE,
                "VmPTE: \(here.vmPTEByteCount / 1024) kB here, \(model.vmPTEByteCount / 1024) kB on "
                    + "the model: \(abs(difference) / 4096) tables \(more) here"
            )
        }
        return nil
    }

    private func mappings(_ here: [ObservedVMA], _ model: [ObservedVMA]) -> String? {
        for index in 0..<max(here.count, model.count) {
            let ours = index < here.count ? masked(here[index]) : nil
            let theirs = index < model.count ? masked(model[index]) : nil
            if ours != theirs {
                return "mapping \(index): \(Self.text(ours)) here, "
                    + "\(Self.text(theirs)) on the model"
            }
        }
        return nil
    }

    private func masked(_ vma: ObservedVMA) -> ObservedVMA {
        var vma = vma
        if !showsGuards { vma.attributes.remove(.mayHaveGuards) }
        return vma
    }

    private func pages(_ here: [PageState], _ model: [PageState]) -> String {
        guard here.count == model.count else {
            return "\(here.count) pages here, \(model.count) on the model"
        }
        let differing = here.indices.filter { here[$0] != model[$0] }
        let first = differing[0]
        let others = differing.count > 1 ? " (\(differing.count) pages differ)" : ""
        return "page \(Field.name(Field.address(ofPage: first))): \(Self.text(here[first])) here, "
            + "\(Self.text(model[first])) on the model\(others)"
    }

    static func text(_ page: PageState) -> String {
        let kind =
            switch page.kind {
            case .none: "none"
            case .anonymous: "anonymous"
            case .zeroPage: "zero page"
            case .file: "file"
            case .swap: "swap"
            case .writeProtectMarker: "uffd-wp marker"
            case .guardMarker: "guard"
            }
        return page.isWriteProtected ? "\(kind) (uffd-wp)" : kind
    }

    /// All of it, in a line.
    static func text(_ step: Player.Step) -> String {
        var runs: [String] = []
        var first = 0
        let pages = step.seen.pages
        for index in 1...pages.count where index == pages.count || pages[index] != pages[first] {
            if pages[first] != .none {
                let start = Field.address(ofPage: first)
                let end = Field.address(ofPage: index - 1) + PageGeometry.pageByteCount
                let name = Field.name(AddressRange(start: start, end: end))
                runs.append("\(name) \(text(pages[first]))")
            }
            first = index
        }
        let mappings = step.seen.vmas.map { text($0) }
        let child = step.child.map { " child: " + text(Player.Step(errno: 0, seen: $0)) } ?? ""
        return "errno \(Errno.text(step.errno)), VmPTE \(step.seen.vmPTEByteCount / 1024) kB, "
            + (mappings + runs).joined(separator: ", ") + child
    }

    static func text(_ vma: ObservedVMA?) -> String {
        guard let vma else { return "none" }
        let flags = attributeNames.filter { vma.attributes.contains($0.0) }.map { " " + $0.1 }
        return "[\(Field.name(vma.range)) \(vma.protection.text) "
            + "\(vma.isShared ? "shared" : "private")\(flags.joined())]"
    }

    /// As in VmFlags.
    private static let attributeNames: [(VMA.Attributes, String)] = [
        (.locked, "lo"), (.lockedOnFault, "lf"), (.noHugePage, "nh"), (.hugePage, "hg"),
        (.dontDump, "dd"), (.dontFork, "dc"), (.missingRegistered, "um"),
        (.writeProtectRegistered, "uw"), (.accounted, "ac"), (.noReserve, "nr"),
        (.mayHaveGuards, "gu"),
    ]
}
