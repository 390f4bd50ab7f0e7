"""Looks of a report: light or dark as the reader's system is, printable, readable without scripts."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1f2733; --soft: #5b6675; --line: #dfe3e9;
        --accent: #2563eb; --ahead: #0f766e; --ahead-ground: #d5f2ec; --behind: #b93a08; --behind-ground: #fde6d8;
        --quiet-ground: #eceff3; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161c; --card: #1b212a; --ink: #e3e8ef; --soft: #9aa7b7; --line: #313a46; --accent: #7aa7ff;
          --ahead: #5eead4; --ahead-ground: #12403b; --behind: #fdba8c; --behind-ground: #4d2413;
          --quiet-ground: #2a323d; }
}
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: var(--ink);
       background: var(--page); margin: 0; }
main { max-width: 92rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 0.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.8rem; }
h3 { font-size: 1rem; margin: 0 0 0.1rem; }
p { margin: 0.4rem 0; max-width: 62rem; }
a { color: var(--accent); }
.soft, figcaption, .caption { color: var(--soft); font-size: 0.9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 1rem 1.1rem; }
.card + .card { margin-top: 0.9rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.5rem 2.2rem; margin: 1rem 0; }
.facts div { display: flex; flex-direction: column; }
.facts b { font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 0.85rem; }
.controls { position: sticky; top: 0; z-index: 5; display: flex; flex-wrap: wrap; gap: 0.6rem 1.6rem; margin: 1rem 0;
            padding: 0.7rem 1.1rem; box-shadow: 0 2px 8px #0000000d; }
.control { border: 0; padding: 0; margin: 0; display: flex; flex-wrap: wrap; align-items: center; gap: 0.35rem; }
.control legend { float: left; color: var(--soft); font-size: 0.85rem; padding: 0 0.25rem 0 0; }
.control label { cursor: pointer; }
.control label span { display: inline-block; padding: 0.15rem 0.75rem; border: 1px solid var(--line);
                      border-radius: 1rem; font-size: 0.9rem; }
.control input { position: absolute; opacity: 0; }
.control input:checked + span { background: var(--accent); border-color: var(--accent); color: var(--card); }
.control input:focus-visible + span { outline: 2px solid var(--accent); outline-offset: 2px; }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
.plots .wide-plot { grid-column: 1 / -1; }
@media (max-width: 56rem) { .plots { grid-template-columns: minmax(0, 1fr); } }
.plots figure, .plots .card + .card { margin: 0; min-width: 0; }
[hidden] { display: none !important; }
.plot { width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; width: 100%; }
th, td { text-align: right; padding: 0.32rem 0.45rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); }
thead th { border-bottom-width: 2px; }
thead th.over { text-align: left; border-bottom-width: 1px; }
thead th.over:first-child { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th.text, td.text { text-align: left; }
tbody tr:last-child td { border-bottom: 0; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.word { display: inline-block; padding: 0 0.45rem; border-radius: 0.8rem; background: var(--quiet-ground);
        color: var(--soft); font-size: 0.84rem; }
.word.better { background: var(--ahead-ground); color: var(--ahead); }
.word.worse { background: var(--behind-ground); color: var(--behind); }
.error td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
details { margin: 0.6rem 0; }
summary { cursor: pointer; font-weight: 600; }
details h3 { margin-top: 1.3rem; }
details .scroll { margin: 0.4rem 0 0.2rem; }
dl { display: grid; grid-template-columns: minmax(8rem, 11rem) 1fr; gap: 0.5rem 1.2rem; margin: 0; max-width: 66rem; }
dt { font-weight: 600; }
dd { margin: 0; }
@media (max-width: 40rem) { .controls { position: static; } }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 0.5rem; } }
.button { display: inline-block; padding: 0.3rem 0.9rem; border: 1px solid var(--line); border-radius: 0.4rem;
          text-decoration: none; background: var(--card); }
@media print { .controls { display: none; } body { background: white; } .card { break-inside: avoid; } }
"""
