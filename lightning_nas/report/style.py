"""The style sheet of the report: one light theme, no fonts or pictures from elsewhere."""

CSS = """
:root { color-scheme: light; --ink: #1f2937; --quiet: #64748b; --line: #e2e8f0; --accent: #1d4ed8; }
* { box-sizing: border-box; }
body { margin: 0; background: #f8fafc; color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
header p { color: var(--quiet); margin: 0 0 20px; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.45rem, 3.5vw, 2.1rem); line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 8px; }
h2 { font-size: 1.15rem; margin: 0 0 10px; letter-spacing: -0.01em; }
h3 { font-size: 0.95rem; margin: 0 0 6px; color: var(--quiet); font-weight: 600; }
p { margin: 0 0 12px; max-width: 80ch; }
section { background: #fff; border: 1px solid var(--line); border-radius: 14px; padding: 20px 22px; margin: 18px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: 12px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 14px; padding: 14px 16px; }
.card .name { color: var(--quiet); font-size: 0.82rem; }
.card .value { font-size: 1.5rem; font-weight: 650; letter-spacing: -0.02em; line-height: 1.3;
  white-space: nowrap; }
.card .more { color: var(--quiet); font-size: 0.82rem; }
.card.first { background: var(--accent); border-color: var(--accent); color: #fff; }
.card.first .name, .card.first .more { color: #dbeafe; }
.verdict { border-left: 4px solid var(--quiet); background: #f1f5f9; border-radius: 6px; padding: 10px 14px; }
.verdict.win { border-color: #059669; background: #ecfdf5; }
.verdict.lose { border-color: #dc2626; background: #fef2f2; }
.note { color: var(--quiet); font-style: italic; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--quiet); font-weight: 600; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
tr.found td { font-weight: 650; }
tr.wrong td { background: #fef2f2; }
.bar { width: 24vw; min-width: 90px; max-width: 300px; }
td:first-child { white-space: nowrap; }
sub { line-height: 0; }
.bar div { height: 9px; margin-top: 8px; border-radius: 5px; background: #bfdbfe; min-width: 2px; }
tr.found .bar div { background: var(--accent); }
figure { margin: 0 0 18px; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--quiet); font-size: 0.85rem; }
@media (max-width: 520px) { .cards { grid-template-columns: 1fr 1fr; } .card .value { font-size: 1.15rem; } }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 18px; }
pre { background: #f1f5f9; border-radius: 8px; padding: 12px 14px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 0.85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0 0 14px; }
details summary { cursor: pointer; color: var(--accent); font-weight: 600; margin: 4px 0 10px; }
footer { color: var(--quiet); font-size: 0.85rem; }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""
