// SPDX-License-Identifier: Apache-2.0

/// The page as a Mustache template: in the program, so that one that was moved has it, too. What it
/// makes is HTML and well-formed XML, and loads nothing: its own policy forbids it.
enum PageTemplate {
    static let text = """
        {{% CONTENT_TYPE: MARKUP}}
        <!DOCTYPE html>
        <html lang="en">
        <head>
        <meta charset="utf-8"/>
        <meta name="viewport" content="width=device-width, initial-scale=1"/>
        <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
        <title>PTReclaim: what it does, measured</title>
        <style>
        \(style)
        </style>
        </head>
        <body>
        <header>
        <h1>PTReclaim: what it does, measured</h1>
        <p>Measured {{date}} in {{minutes}} minutes. Waste is VmPTE, the page tables of a process, minus
        what its live pages need. <em>Plain</em> is a program without the library; the modes are
        settings of the library. kB are of 1024 bytes.</p>
        {{#isQuick}}<p class="notice">This was a quick run (<code>--quick</code>): less of everything. It
        shows that it works, and little more.</p>{{/isQuick}}
        {{#isUnfinished}}<p class="notice">This run was not finished: what is missing has not been
        measured.</p>{{/isUnfinished}}
        </header>

        <section>
        <h2>Waste that is left at the end</h2>
        {{#overview}}
        {{#isEmpty}}<p class="failure">No program has figures.</p>{{/isEmpty}}
        {{^isEmpty}}
        <p>kB of waste, of VmPTE in kB, behind the last deletion. – was not played.</p>
        <div class="table"><table class="overview">
        <thead><tr><th scope="col">program</th>{{#titles}}<th scope="col">{{.}}</th>{{/titles}}</tr></thead>
        <tbody>
        {{#rows}}<tr><th scope="row">{{program}}, <span class="allocator">{{allocator}}</span></th>{{#cells}}<td{{#isPlain}} class="strong"{{/isPlain}}>{{text}}</td>{{/cells}}</tr>
        {{/rows}}
        </tbody>
        </table></div>
        {{/isEmpty}}
        {{/overview}}
        </section>

        <section>
        <h2>Page tables over time</h2>
        <p>Each program is filled and emptied, plain and in each mode, side by side. They are worked on in
        turn, and the clock of each stands still while another is worked on, so the same work stands at
        the same time. Both drawings of a program have the same scales; numbers at the lines are the last
        ones. A mode passes where it leaves at most 2 % of VmPTE or 32 kB that it may touch; it is not
        counted where plain wastes less than 20 %, so that there is little to free, or where it does nothing.
        What may not be touched: a table whose 2 MiB belong to more than one mapping (crossesVMA),
        and PMD and PUD tables (upperTables).</p>
        {{^churns}}<p class="failure">No program was played.</p>{{/churns}}
        {{#churns}}
        <article>
        <h3>{{name}}</h3>
        {{#summary}}<p>{{summary}}</p>{{/summary}}
        {{#failures}}<p class="failure">{{.}}</p>{{/failures}}
        {{#hasDrawings}}<div class="drawings">{{#drawings}}<figure>{{{.}}}</figure>{{/drawings}}</div>{{/hasDrawings}}
        {{#hasRows}}
        <div class="table"><table>
        <thead><tr><th scope="col">mode</th><th scope="col" class="number">VmPTE kB</th><th scope="col" class="number">waste kB</th><th scope="col" class="number">%</th><th scope="col">not to be touched</th><th scope="col">target</th></tr></thead>
        <tbody>
        {{#rows}}<tr><th scope="row">{{mode}}</th><td class="number">{{vmPTE}}</td><td class="number">{{waste}}</td><td class="number">{{percent}}</td><td>{{untouchable}}</td><td>{{word}}</td></tr>
        {{/rows}}
        </tbody>
        </table></div>
        {{/hasRows}}
        {{#hasDrawings}}
        <details><summary>The lines as a table</summary>
        <p>VmPTE and, in brackets, waste, in kB. All that was seen is in data.json.</p>
        <div class="table"><table>
        <thead><tr><th scope="col" class="number">seconds</th>{{#titles}}<th scope="col" class="number">{{.}}</th>{{/titles}}</tr></thead>
        <tbody>
        {{#times}}<tr><th scope="row" class="number">{{seconds}}</th>{{#cells}}<td class="number">{{.}}</td>{{/cells}}</tr>
        {{/times}}
        </tbody>
        </table></div>
        </details>
        {{/hasDrawings}}
        </article>
        {{/churns}}
        </section>

        <section>
        <h2>Speed</h2>
        {{#speed}}
        <p>The same work with the library and without, in alternating windows: geometric means of the ratios
        of each pair, with intervals of 95 %. A ratio is resolved where its interval is ± 1 % or
        narrower; its square is filled then. Targets: CPU at most 1.01, operations at least 0.99.</p>
        <p>{{summary}}</p>
        {{#failures}}<p class="failure">{{.}}</p>{{/failures}}
        {{#hasRows}}
        <div class="drawings">{{#drawings}}<figure>{{{.}}}</figure>{{/drawings}}</div>
        <details><summary>The ratios as a table</summary>
        <div class="table"><table>
        <thead><tr><th scope="col">program</th><th scope="col" class="number">pairs</th><th scope="col" class="number">CPU per operation</th><th scope="col">target</th><th scope="col" class="number">operations per second</th><th scope="col">target</th></tr></thead>
        <tbody>
        {{#rows}}<tr><th scope="row">{{name}}</th><td class="number">{{pairs}}</td><td class="number">{{cpu}}</td><td>{{cpuWord}}</td><td class="number">{{rate}}</td><td>{{rateWord}}</td></tr>
        {{/rows}}
        </tbody>
        </table></div>
        </details>
        {{/hasRows}}
        {{/speed}}
        </section>

        <section>
        <h2>Waits at fences</h2>
        <p>Threads write into empty spans at random all the time, while <code>scan</code> frees without a
        pause: much more often than it would. A write in which the thread slept has waited, for a fence or
        for the mmap lock. The target is a p99.9 of {{waitsAllowed}} µs. A bar is never too low to
        be seen.</p>
        {{#hasNoWaits}}<p class="failure">No waits were measured.</p>{{/hasNoWaits}}
        {{#waits}}
        <article>
        <h3>{{name}}</h3>
        {{#failure}}<p class="failure">{{failure}}</p>{{/failure}}
        {{#summary}}<p>{{summary}}</p>{{/summary}}
        <div class="drawings">
        {{#drawing}}<figure>{{{drawing}}}</figure>{{/drawing}}
        {{#hasRows}}
        <div class="table"><table>
        <thead><tr><th scope="col">writes</th><th scope="col" class="number">count</th><th scope="col" class="number">p50</th><th scope="col" class="number">p99</th><th scope="col" class="number">p99.9</th><th scope="col" class="number">max</th></tr></thead>
        <tbody>
        {{#rows}}<tr><th scope="row">{{name}}</th><td class="number">{{count}}</td><td class="number">{{p50}}</td><td class="number">{{p99}}</td><td class="number">{{p999}}</td><td class="number">{{longest}}</td></tr>
        {{/rows}}
        </tbody>
        </table>
        <ul>{{#verdicts}}<li>{{.}}</li>{{/verdicts}}</ul>
        </div>
        {{/hasRows}}
        </div>
        </article>
        {{/waits}}
        </section>

        <section>
        <h2>Where and with what</h2>
        <div class="table"><table>
        <tbody>
        {{#facts}}<tr><th scope="row">{{name}}</th><td>{{value}}</td></tr>
        {{/facts}}
        </tbody>
        </table></div>
        <p>To measure it again, on this commit:</p>
        <pre>{{command}}</pre>
        <p>To make this page again from its figures (data.json beside it, schema {{schema}}):</p>
        <pre>swift run -c release Benchmarks --report DIR --from data.json</pre>
        <p>The tables alone: <code>Benchmarks allocators</code>, <code>modes</code>, <code>speed</code> and
        <code>waits</code>.</p>
        <details><summary>What was started</summary>
        <ul class="commands">{{#commands}}<li><code>{{.}}</code></li>
        {{/commands}}</ul>
        </details>
        </section>
        </body>
        </html>

        """

    private static let style = """
        :root {
          color-scheme: light dark;
          --paper: #ffffff; --ink: #1b1b1b; --faint: #5c5c5c; --rule: #d9d9d9; --notice: #fff4d6;
          --hooks: #0a58a6; --madvise: #a8480a; --scan: #1a7040; --both: #8a2a86; --auto: #6a5a00;
        }
        @media (prefers-color-scheme: dark) {
          :root {
            --paper: #16181b; --ink: #ececec; --faint: #a8a8a8; --rule: #3b3f45; --notice: #3d3417;
            --hooks: #7db8f5; --madvise: #f5a25d; --scan: #6fd19a; --both: #e08be0; --auto: #d9c65a;
          }
        }
        * { box-sizing: border-box; }
        body {
          margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
          font: 1rem/1.45 system-ui, sans-serif;
        }
        h1 { font-size: 1.7rem; line-height: 1.2; }
        h2 { margin: 2.5rem 0 0.5rem; padding-top: 0.6rem; border-top: 2px solid var(--ink); font-size: 1.35rem; }
        h3 { margin: 1.8rem 0 0.3rem; font-size: 1.1rem; }
        p { max-width: 52rem; margin: 0.5rem 0; }
        code, pre { font: 0.88em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
        pre { white-space: pre-wrap; padding: 0.5rem; border: 1px solid var(--rule); }
        .notice { padding: 0.5rem 0.8rem; background: var(--notice); }
        .failure { padding-left: 0.7rem; border-left: 4px solid var(--madvise); overflow-wrap: anywhere; }
        .drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 0.5rem 1.5rem; }
        figure { margin: 0.4rem 0; max-width: 35rem; }
        svg { display: block; width: 100%; height: auto; }
        .table { overflow-x: auto; }
        table { border-collapse: collapse; margin: 0.4rem 0; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
        th, td { padding: 0.18rem 0.7rem 0.18rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
        thead th { border-bottom: 1px solid var(--ink); }
        tbody th { font-weight: normal; }
        .number { text-align: right; white-space: nowrap; }
        thead .number { white-space: normal; }
        .strong { font-weight: bold; }
        .allocator { white-space: nowrap; }
        ul { padding-left: 1.2rem; font-size: 0.88rem; }
        details { margin: 0.4rem 0; }
        summary { cursor: pointer; color: var(--faint); font-size: 0.9rem; }
        .commands li { margin: 0.3rem 0; }
        svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
        svg text.small { font-size: 11.5px; fill: var(--faint); }
        svg text.heading { font-weight: bold; font-size: 13px; }
        svg text.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
        .grid { stroke: var(--rule); }
        .axis { stroke: var(--faint); }
        .mark { stroke: var(--faint); stroke-dasharray: 1 3; }
        .line { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; }
        .leader { fill: none; stroke: var(--ink); stroke-width: 0.8; }
        .hooks { stroke: var(--hooks); } .madvise { stroke: var(--madvise); } .scan { stroke: var(--scan); }
        .both { stroke: var(--both); } .auto { stroke: var(--auto); }
        svg text.hooks { fill: var(--hooks); stroke: none; } svg text.madvise { fill: var(--madvise); stroke: none; }
        svg text.scan { fill: var(--scan); stroke: none; } svg text.both { fill: var(--both); stroke: none; }
        svg text.auto { fill: var(--auto); stroke: none; }
        .band { fill: var(--rule); opacity: 0.6; }
        .one { stroke: var(--ink); }
        .interval { stroke: var(--hooks); stroke-width: 2; }
        .point { fill: var(--hooks); stroke: var(--hooks); stroke-width: 2; } .point.open { fill: var(--paper); }
        .arrow, .bar { fill: var(--hooks); }
        @media (max-width: 34rem) {
          table { font-size: 0.75rem; }
          th, td { padding-right: 0.45rem; }
          td, th { overflow-wrap: break-word; }
        }
        @media print {
          :root {
            color-scheme: light;
            --paper: #ffffff; --ink: #000000; --faint: #444444; --rule: #cccccc; --notice: #f2f2f2;
            --hooks: #0a58a6; --madvise: #a8480a; --scan: #1a7040; --both: #8a2a86; --auto: #6a5a00;
          }
          @page { margin: 14mm; }
          body { padding: 0; max-width: none; font-size: 10pt; }
          .drawings { grid-template-columns: 1fr 1fr; }
          .drawings > .table { grid-column: auto; }
          .table { overflow: visible; }
          table, ul { font-size: 8pt; }
          article, figure, table, tr, pre, .notice { break-inside: avoid; }
          h2, h3 { break-after: avoid; }
          .bar, .band { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
          details:not([open]) { display: none; }
        }
        """
}
