"""The report in a real browser: accessible by axe-core's rules, and as wide as a phone."""

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from lightning_nas.report.page import write_report
from tests.report.pages import whole, with_results

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--virtual-time-budget=20000", "--dump-dom", "--window-size=1280,900"),
)
DARK = ("--blink-settings=preferredColorScheme=0", "--force-dark-mode")
RUN = """
<script>
addEventListener("load", () => axe.run({resultTypes: ["violations"]}).then((found) => parent.postMessage({
  violations: found.violations.map((each) => [each.impact, each.id, each.nodes.slice(0, 3).map((node) => node.html)]),
  width: document.documentElement.scrollWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches,
}, "*")));
</script>
"""
FRAME = """<!DOCTYPE html><title>frame</title>
<iframe style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>addEventListener("message", (event) => {{
  const shown = document.createElement("pre");
  shown.id = "found";
  shown.textContent = JSON.stringify(event.data);
  document.body.append(shown);
}});</script>"""


def axe() -> str:
    """The source of axe-core, from AXE_CORE or from npm's folders."""
    roots = [Path(os.environ["AXE_CORE"])] if "AXE_CORE" in os.environ else []
    npm = shutil.which("npm")
    if npm is not None:
        ran = subprocess.run([npm, "root", "--global"], capture_output=True, text=True, check=False)
        roots += [Path(ran.stdout.strip()), Path("node_modules")]
    for root in roots:
        path = root / "axe-core" / "axe.min.js"
        if path.is_file():
            return path.read_text()
    pytest.skip("axe-core is not installed: npm install --global axe-core, or AXE_CORE=folder of it")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_no_serious_violation(width: int, dark: bool, tmp_path: Path) -> None:
    if BROWSER is None:
        pytest.skip("Chromium is not installed")
    source = axe()
    page = write_report(with_results(whole(tmp_path / "run"))).read_text()
    page = page.replace("</body>", f"<script>{source}</script>{RUN}</body>").replace("<details>", "<details open>")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width, page=escape(page)))
    flags = [*FLAGS, *(DARK if dark else ()), f"--user-data-dir={tmp_path / 'profile'}"]
    command = [BROWSER, *flags, (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = json.loads(unescape(re.findall(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)[0]))
    assert found["dark"] == dark
    assert [each for each in found["violations"] if each[0] in ("serious", "critical")] == []
    assert found["width"] <= width
