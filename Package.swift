// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

/// Targets that another package may link: no unsafe flags here, or SwiftPM refuses the dependency.
let hostSettings: [SwiftSetting] = [
    .strictMemorySafety(),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("ExistentialAny"),
]

/// The model and what plays on it: no product links them. Release builds do not check for exclusive
/// access, which was a third of the time of a simulation; debug builds, and with them the tests, do.
let modelSettings: [SwiftSetting] =
    hostSettings + [
        .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))
    ]

/// The Swift core inside the preload library. It shares every source file with `ReclaimCore` and
/// `LiveSpace` (Shim/Core holds links to them), compiled as one module so that `Embedded` can
/// specialise all of it: no runtime, no metadata. `-no-allocations` turns a hidden heap allocation,
/// which would re-enter the allocator that called us, into a compile error.
let shimCoreSettings: [SwiftSetting] = [
    .strictMemorySafety(),
    .enableExperimentalFeature("Embedded"),
    .define("SHIM_SINGLE_MODULE"),
    .unsafeFlags(["-wmo", "-Xfrontend", "-no-allocations", "-Xfrontend", "-function-sections"]),
]

let cSettings: [CSetting] = [
    .unsafeFlags(["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"])
]

/// `-fvisibility=hidden` and the explicit export list keep every name of ours out of the victim's
/// symbol scope; a stray `swift_retain` would interpose the runtime of a Swift server.
let libraryCSettings: [CSetting] = [
    .unsafeFlags([
        "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden",
        "-ftls-model=initial-exec", "-fno-stack-protector",
        // The linker drops what nobody calls.
        "-ffunction-sections", "-fdata-sections",
    ]),
    // Small: it is mapped into every process of a server.
    .unsafeFlags(["-Oz"], .when(configuration: .release)),
]

/// `nodelete`: a thread of ours sleeps in the library's code, and glibc's setuid wakes every thread.
func libraryLinkerSettings(of name: String, exporting list: String) -> [LinkerSetting] {
    [
        .unsafeFlags([
            "-Xlinker", "-soname=lib\(name).so",
            "-Xlinker", "--version-script=\(Context.packageDirectory)/Shim/\(list)",
            "-Xlinker", "--gc-sections", "-Xlinker", "-z", "-Xlinker", "now",
            // Hooks and a thread point into the library for as long as the process lives.
            "-Xlinker", "-z", "-Xlinker", "nodelete",
        ])
    ]
}

let package = Package(
    name: "PTReclaim",
    products: [
        .library(name: "PTReclaim", targets: ["PTReclaim", "ReclaimCore"]),
        // ShimCore is named so that SwiftPM sees an Embedded target and links no Swift runtime.
        .library(name: "ptreclaim-preload", type: .dynamic, targets: ["Preload", "ShimCore"]),
        // The call for C programs: the same Embedded core behind ptreclaim.h. Needs libc only.
        .library(name: "ptreclaim-c", type: .dynamic, targets: ["PTReclaimC", "ShimCore"]),
        .executable(name: "ptreclaim", targets: ["PTReclaimCLI"]),
        .executable(name: "Benchmarks", targets: ["Benchmarks"]),
        .executable(name: "reclaim-laws", targets: ["reclaim-laws"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.6.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/ordo-one/TextTable", from: "0.0.2"),
        .package(url: "https://github.com/hummingbird-project/swift-mustache", from: "2.1.1"),
        .package(url: "https://github.com/onevcat/Rainbow", from: "4.2.2"),
    ],
    targets: [
        // What Linux offers and libc headers may lack: numbers, structs, raw system calls.
        .target(name: "CLinuxMM", cSettings: [.define("_GNU_SOURCE")]),
        .target(name: "CStatsPage"),
        .target(name: "CTraceFile"),
        .target(name: "CReclaim"),
        .systemLibrary(
            name: "CJemalloc", pkgConfig: "jemalloc", providers: [.apt(["libjemalloc-dev"])]),

        // The heart.
        .target(name: "ReclaimCore", swiftSettings: hostSettings),
        .target(
            name: "LiveSpace", dependencies: ["ReclaimCore", "CLinuxMM"],
            swiftSettings: hostSettings),
        .target(
            name: "PTReclaim", dependencies: ["ReclaimCore", "LiveSpace"],
            swiftSettings: hostSettings),
        .target(
            name: "PageTableModel", dependencies: ["ReclaimCore"], swiftSettings: modelSettings),

        // Workloads played on the model, under each policy that frees PTE tables or does not.
        .target(
            name: "PageTableSimulator", dependencies: ["PageTableModel", "ReclaimCore"],
            swiftSettings: modelSettings),
        // What the preload library recorded, read and replayed on the model.
        .target(
            name: "TraceFile", dependencies: ["ReclaimCore", "PageTableModel", "CTraceFile"],
            swiftSettings: hostSettings),
        // The model and the kernel, played against each other: a child process that plays, what
        // can be seen of it, and what to play. Neither needs Foundation: they run in bare guests.
        .target(
            name: "CPlayer", dependencies: ["CLinuxMM"], cSettings: [.define("_GNU_SOURCE")]),
        .target(
            name: "Conformance",
            dependencies: ["CPlayer", "CLinuxMM", "LiveSpace", "PageTableModel", "ReclaimCore"],
            swiftSettings: hostSettings),

        // Writes the stats page: a module of its own, as the preload library has no use for it.
        .target(
            name: "CControl", dependencies: ["CStatsPage"], cSettings: [.define("_GNU_SOURCE")]),
        // Looking at processes, this one and others.
        .target(
            name: "ProcFS", dependencies: ["ReclaimCore", "CLinuxMM", "CControl", "CStatsPage"],
            swiftSettings: hostSettings),
        // The preload library's table of options (a link), for the manual.
        .target(name: "COptions"),
        // What programs write that browsers read.
        .target(
            name: "Markup", dependencies: [.product(name: "Mustache", package: "swift-mustache")],
            swiftSettings: hostSettings),
        .executableTarget(
            name: "PTReclaimCLI",
            dependencies: [
                "Markup", "ProcFS", "TraceFile", "CLinuxMM", "COptions", "Conformance", "LiveSpace",
                "PageTableModel", "PageTableSimulator", "ReclaimCore",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "TextTable", package: "TextTable"),
                .product(name: "Rainbow", package: "Rainbow"),
                .product(name: "Mustache", package: "swift-mustache"),
            ], swiftSettings: hostSettings),

        // The libraries for any program: one to preload, one to call from C.
        .target(
            name: "ShimCore", dependencies: ["CLinuxMM", "CReclaim"], path: "Shim/Core",
            swiftSettings: shimCoreSettings),
        .target(
            name: "Preload",
            dependencies: ["ShimCore", "CLinuxMM", "CStatsPage", "CTraceFile", "CReclaim"],
            path: "Shim/Preload", cSettings: libraryCSettings,
            linkerSettings: libraryLinkerSettings(
                of: "ptreclaim-preload", exporting: "preload.map")),
        .target(
            name: "PTReclaimC", dependencies: ["ShimCore", "CReclaim"], path: "Shim/Library",
            exclude: ["install", "ptreclaim.pc.in"], cSettings: libraryCSettings,
            linkerSettings: libraryLinkerSettings(of: "ptreclaim-c", exporting: "library.map")),

        // Proof.
        .executableTarget(
            name: "Benchmarks",
            dependencies: [
                "Markup", "ProcFS", "ReclaimCore", "CStatsPage", "CLinuxMM",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "TextTable", package: "TextTable"),
                .product(name: "Mustache", package: "swift-mustache"),
            ], path: "Benchmarks/Harness", swiftSettings: hostSettings),
        // Built in release mode by the harness: it measures the call beside its system calls.
        .executableTarget(
            name: "call-cost", dependencies: ["PTReclaim", "LiveSpace", "ReclaimCore", "CLinuxMM"],
            path: "Benchmarks/Call", swiftSettings: hostSettings),
        // The same for a pass of the service thread: the shim's own sources (links), one module as
        // in the shim, but with the Swift runtime. Memory and output are call-cost's (links).
        .executableTarget(
            name: "scan-cost", dependencies: ["CLinuxMM"], path: "Benchmarks/Scan",
            swiftSettings: hostSettings + [
                .define("SHIM_SINGLE_MODULE")
            ]),
        // Built in release mode, too: how fast the model is.
        .executableTarget(
            name: "model-speed", dependencies: ["PageTableModel", "ReclaimCore", "CLinuxMM"],
            path: "Benchmarks/Model", swiftSettings: hostSettings),
        // What the C programs below share: random numbers, a clock, a census of their own tables.
        .target(name: "Drivers", path: "Benchmarks/Drivers", cSettings: cSettings),
        // The churn and the torture run inside jemalloc, in C, so that nothing but the allocator
        // is measured and every byte that changes is the shim's fault.
        .executableTarget(
            name: "jemalloc-churn", dependencies: ["CJemalloc", "Drivers"],
            path: "Benchmarks/Churn", cSettings: cSettings),
        .executableTarget(
            name: "jemalloc-torture", dependencies: ["CJemalloc"], path: "Tests/Fixtures/Torture",
            cSettings: cSettings),
        // Victims of the scan mode: one that waits at fences, one that has memory and does nothing.
        .executableTarget(
            name: "fence-waits", dependencies: ["Drivers"], path: "Benchmarks/Waits",
            cSettings: cSettings),
        .executableTarget(
            name: "idle-space", path: "Benchmarks/Space", cSettings: cSettings),
        // The scans of `ptreclaim inspect`, to measure it by.
        .executableTarget(
            name: "bare-scans", dependencies: ["CLinuxMM"], path: "Benchmarks/BareScans",
            cSettings: cSettings),
        // The same for any allocator: these link none, so LD_PRELOAD chooses it. What the tortures
        // share are links.
        .executableTarget(
            name: "allocator-churn", dependencies: ["Drivers"], path: "Benchmarks/AllocatorChurn",
            cSettings: cSettings),
        .executableTarget(
            name: "allocator-torture", path: "Tests/Fixtures/AllocatorTorture",
            cSettings: cSettings),
        .executableTarget(
            name: "jemalloc-victim", dependencies: ["CJemalloc", "CStatsPage"],
            path: "Tests/Fixtures/Victim", cSettings: cSettings),
        // What an application tells the preload library of its memory, from C; and a server in Swift,
        // whose runtime must not meet the library's.
        .executableTarget(
            name: "advice", dependencies: ["CLinuxMM", "CReclaim", "CStatsPage"],
            path: "Tests/Fixtures/Advice", cSettings: cSettings),
        .executableTarget(
            name: "swift-server", dependencies: ["PTReclaim", "CLinuxMM"],
            path: "Tests/Fixtures/SwiftServer", swiftSettings: hostSettings),
        // Weather for the modes that free behind a fence, on plain mmap and malloc.
        .executableTarget(
            name: "mode-victim", dependencies: ["CStatsPage"], path: "Tests/Fixtures/ModeVictim",
            cSettings: cSettings),
        // Examples, run by the tests. Not products.
        .executableTarget(
            name: "example-call", dependencies: ["PTReclaim"], path: "Tests/Examples/swift",
            swiftSettings: hostSettings),
        .executableTarget(
            name: "example-virtio-mem",
            dependencies: ["PTReclaim", "ReclaimCore", "ProcFS", "CLinuxMM"],
            path: "Tests/Examples/virtio-mem", swiftSettings: hostSettings),
        // The same for the C library's fence. It loads the library by name, so that a test can give
        // it one that is wrong on purpose.
        .executableTarget(
            name: "fence-torture", dependencies: ["CReclaim"], path: "Tests/Fixtures/FenceTorture",
            cSettings: cSettings),
        // The kernel's own ways into fenced memory: which of them wait, and which fail.
        .executableTarget(
            name: "fence-paths", dependencies: ["CLinuxMM"], path: "Tests/Fixtures/FencePaths",
            cSettings: cSettings),
        // How long threads are held up by a service thread that does not get on; and what stops it.
        .executableTarget(
            name: "fence-stop", path: "Tests/Fixtures/FenceStop", cSettings: cSettings),
        .executableTarget(
            name: "thread-debugger", path: "Tests/Fixtures/Debugger", cSettings: cSettings),
        .target(
            name: "TestSupport",
            dependencies: [
                "ProcFS", "ReclaimCore", "PageTableModel", "LiveSpace", "CLinuxMM", "CStatsPage",
            ],
            path: "Tests/TestSupport", swiftSettings: hostSettings),
        // The law suite of the tests as a program, for kernels that boot in QEMU. It shares its
        // source files with TestSupport (links), and needs neither Foundation nor Testing.
        .executableTarget(
            name: "reclaim-laws",
            dependencies: ["ReclaimCore", "PageTableModel", "LiveSpace", "CLinuxMM"],
            path: "Tests/Lab/Laws", swiftSettings: hostSettings),
        .testTarget(
            name: "ReclaimCoreTests",
            dependencies: [
                "ReclaimCore", "PageTableModel", "LiveSpace", "PTReclaim", "CLinuxMM",
                "TestSupport",
            ],
            swiftSettings: hostSettings),
        .testTarget(
            name: "ProcFSTests", dependencies: ["ProcFS", "TestSupport"],
            swiftSettings: hostSettings),
        .testTarget(
            name: "ConformanceTests",
            dependencies: ["Conformance", "PageTableModel", "ReclaimCore", "TestSupport"],
            swiftSettings: hostSettings),
        .testTarget(
            name: "PageTableSimulatorTests",
            dependencies: ["PageTableSimulator", "PageTableModel", "ReclaimCore"],
            swiftSettings: hostSettings),
        .testTarget(
            name: "CommandTests", dependencies: ["ProcFS", "ReclaimCore", "TestSupport"],
            swiftSettings: hostSettings),
        .testTarget(
            name: "TraceFileTests", dependencies: ["TraceFile", "ReclaimCore", "CTraceFile"],
            swiftSettings: hostSettings),
        .testTarget(
            name: "ShimTests",
            dependencies: ["ProcFS", "ReclaimCore", "CReclaim", "TraceFile", "TestSupport"],
            swiftSettings: hostSettings),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c17
)
