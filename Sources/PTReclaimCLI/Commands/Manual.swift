// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation

struct Manual: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Prints the manual page ptreclaim(1), in mdoc.",
        discussion: """
            For packages. Dated today, or as SOURCE_DATE_EPOCH says.

            Examples:
              ptreclaim manual > ptreclaim.1
              ptreclaim manual | man -l -
            """,
        shouldDisplay: false)

    func run() throws {
        let epoch = ProcessInfo.processInfo.environment["SOURCE_DATE_EPOCH"].flatMap { Double($0) }
        let page = ManualPage(
            try ToolInfo(json: PTReclaimCommand._dumpHelp()), version: PTReclaimCommand.version,
            date: epoch.map { Date(timeIntervalSince1970: $0) } ?? .now)
        print(try page.text(), terminator: "")
    }
}
