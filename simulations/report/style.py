"""How a page looks: one style sheet for the file and the notebook, in light and dark, narrow and wide."""

from __future__ import annotations

FRAGMENT = """
.flp { --line: color-mix(in srgb, currentColor 22%, transparent);
  --faint: color-mix(in srgb, currentColor 7%, transparent);
  --pale: color-mix(in srgb, currentColor 72%, transparent);
  --bad: #d13438; --warm: #c77700; --calm: #2f855a; --none: #6b7280;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  max-width: 74rem; margin: 0 auto; overflow-wrap: break-word; text-align: left; }
.flp * { box-sizing: border-box; }
.flp h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
.flp h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.4rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
.flp p, .flp ul, .flp dl, .flp .finding { max-width: 54rem; }
.flp p { margin: .5rem 0; }
.flp ul { margin: .5rem 0; padding-left: 1.3rem; }
.flp li { margin: .3rem 0; }
.flp .question { font-size: 1.1rem; color: var(--pale); }
.flp .warning { border: 2px solid var(--bad); border-radius: .5rem; padding: .6rem .9rem; }
.flp .finding { margin: .7rem 0; padding: .55rem .9rem; border-left: .35rem solid var(--none); background: var(--faint);
  border-radius: 0 .5rem .5rem 0; }
.flp .finding b { overflow-wrap: anywhere; }
.flp .finding .level { display: inline-block; margin-left: .5rem; padding: 0 .55rem; border-radius: 1rem;
  background: var(--none); color: #fff; font-size: .8rem; font-weight: 600; white-space: nowrap; }
.flp .finding.exact, .flp .finding.leaks { border-color: var(--bad); }
.flp .finding.exact .level, .flp .finding.leaks .level { background: var(--bad); }
.flp .finding.unclear { border-color: var(--warm); }
.flp .finding.unclear .level { background: var(--warm); }
.flp .finding.no { border-color: var(--calm); }
.flp .finding.no .level { background: var(--calm); }
.flp .small { font-size: .9rem; color: var(--pale); }
.flp .scroll { overflow-x: auto; max-width: 100%; margin: .8rem 0; }
.flp table { border-collapse: collapse; font-size: .92rem; margin: 0; }
.flp th, .flp td { padding: .35rem .7rem; border: 0; border-bottom: 1px solid var(--line); background: none; }
.flp thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); font-weight: 600; }
.flp td, .flp thead th + th { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.flp tbody th { text-align: left; font-weight: 400; min-width: 9rem; max-width: 24rem; }
.flp thead th:first-child { text-align: left; }
.flp tbody th span { display: block; font-size: .85em; color: var(--pale); }
.flp tr.strongest th, .flp tr.strongest td { font-weight: 650; }
.flp tr.control { font-style: italic; }
.flp tr.published { opacity: .65; }
.flp tr.published th { padding-left: 1.7rem; }
.flp dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem 1.2rem; margin: .6rem 0; }
.flp dt { font-weight: 600; max-width: 16rem; overflow-wrap: anywhere; }
.flp dd { margin: 0; overflow-wrap: anywhere; }
.flp figure { margin: 1rem 0; max-width: 100%; }
.flp figure .sheet { background: #fff; color: #333; border: 1px solid var(--line); border-radius: .5rem; padding: .4rem;
  overflow-x: auto; }
.flp figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
.flp figcaption { font-size: .9rem; color: var(--pale); margin-top: .35rem; max-width: 50rem; }
.flp pre { background: var(--faint); border-radius: .5rem; padding: .7rem .9rem; overflow-x: auto; font-size: .88rem;
  margin: .6rem 0; max-width: 100%; }
.flp code, .flp pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.flp a { color: inherit; }
@media (max-width: 40rem) {
  .flp h1 { font-size: 1.35rem; }
  .flp dl { grid-template-columns: 1fr; gap: 0; }
  .flp dd { margin-bottom: .6rem; }
  .flp th, .flp td { padding: .35rem .5rem; }
  .flp tbody th { max-width: 11rem; }
  .flp figure img { min-width: var(--readable); }
  .flp .scroll::before, .flp .sheet::before { content: "scrolls sideways \\2192"; font-size: .8rem; opacity: .6; }
}
"""
"""Colours come from the text's own, so that a notebook's theme is followed whatever it is."""

DOCUMENT = """
:root { color-scheme: light dark; }
body { margin: 0; padding: 1.6rem 1.2rem 4rem; background: #fff; color: #1d2126; }
@media (prefers-color-scheme: dark) {
  body { background: #15181c; color: #e3e6ea; }
  .flp { --bad: #e0565a; --warm: #d98e22; --calm: #3f9b6c; }
  .flp figure .sheet { filter: brightness(.92); }
}
@media print { body { padding: 0; } }
"""
"""What a file sets beside it: the colours of light and dark."""
