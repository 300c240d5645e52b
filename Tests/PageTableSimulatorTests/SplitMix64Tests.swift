// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import Testing

@Suite struct SplitMix64Tests {
    @Test(arguments: [1, 2, 7, 512, 1 << 31])
    func numbersBelowABoundAreSpreadOverAllOfIt(bound: Int) {
        var random = SplitMix64(seed: 5)
        let eighths = (0..<8000).map { _ in
            let number = random.next(below: bound)
            #expect(number >= 0 && number < bound)
            return number * 8 / bound
        }
        for eighth in 0..<8 where bound >= 512 {
            #expect((800...1200).contains(eighths.count { $0 == eighth }))
        }
        #expect(bound != 2 && bound != 7 || Set(eighths).count == bound)
    }
}
