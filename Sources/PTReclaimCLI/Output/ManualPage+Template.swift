// SPDX-License-Identifier: Apache-2.0

extension ManualPage {
    /// Mustache that makes mdoc. Every value comes with its macros, and escaped: see `Roff`.
    static let template = #"""
        {{% CONTENT_TYPE: TEXT}}
        .\" Made by the command manual of {{name}} {{version}}.
        .Dd {{date}}
        .Dt PTRECLAIM 1
        .Os
        .Sh NAME
        .Nm {{name}}
        .Nd {{abstract}}
        .Sh SYNOPSIS
        {{#commands}}
        .Nm
        .Cm {{name}}
        {{#synopsis}}
        .{{.}}
        {{/synopsis}}
        {{/commands}}
        .Nm
        .Op Cm help Ar command
        .Op Fl -version
        .Op Fl h | Fl -help
        .Sh DESCRIPTION
        {{#paragraphs}}
        {{^first()}}
        .Pp
        {{/first()}}
        {{text}}
        {{/paragraphs}}
        .Pp
        Every command takes
        .Fl h
        or
        .Fl -help
        and
        .Fl -version .
        {{#commands}}
        .Ss {{name}}
        {{abstract}}
        {{#paragraphs}}
        .Pp
        {{text}}
        {{/paragraphs}}
        {{#arguments}}
        {{#first()}}
        .Bl -tag -width Ds
        {{/first()}}
        .It {{title}}
        {{text}}
        {{#last()}}
        .El
        {{/last()}}
        {{/arguments}}
        {{/commands}}
        .Sh ENVIRONMENT
        The command reads
        .Bl -tag -width Ds
        .It Ev PTRECLAIM_SHIM
        The preload library that
        .Nm
        .Cm run
        preloads.
        .It Ev COLUMNS
        How wide to draw where standard output is no terminal.
        Default: 80.
        .It Ev NO_COLOR
        Set to anything: no colours.
        .It Ev LC_ALL , LC_CTYPE , LANG
        The first that is set tells whether the terminal takes UTF-8.
        .El
        .Pp
        The preload library reads, in the process that it is loaded into,
        .Bl -tag -width Ds
        {{#options}}
        .It Ev {{title}}
        {{text}}
        {{/options}}
        .El
        .Pp
        A malformed value gives one line on standard error and the default.
        .Sh EXIT STATUS
        .Bl -tag -width Ds
        {{#statuses}}
        .It {{title}}
        {{text}}
        {{/statuses}}
        .El
        .Pp
        Where a command has others, its own description says so.
        .Sh EXAMPLES
        {{#examples}}
        {{^first()}}
        .Pp
        {{/first()}}
        {{title}}
        .Bd -literal -offset 2n
        {{#lines}}
        {{.}}
        {{/lines}}
        .Ed
        {{/examples}}
        .Sh SEE ALSO
        .Xr madvise 2 ,
        .Xr userfaultfd 2 ,
        .Xr proc 5 ,
        .Xr ld.so 8

        """#
}
