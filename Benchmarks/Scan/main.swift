// SPDX-License-Identifier: Apache-2.0

// See Measure.swift.

func skip(_ reason: String) {
    print("skipped", reason, separator: "\t")
}

if CommandLine.arguments.count == 2, let samples = Int(CommandLine.arguments[1]), samples > 0 {
    if LiveSpace.probeBackend(preferring: .dontneed) == .dontneed {
        var measurement = Measurement(samples: samples)
        measurement.run()
        if let all = measurement.series {
            for series in all { series.print() }
        } else {
            skip("no userfaultfd is to be had")
        }
    } else {
        skip("MADV_DONTNEED frees no table on this kernel")
    }
} else {
    fail("usage: scan-cost SAMPLES")
}
