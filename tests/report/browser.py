"""A real browser without a window, which opens a page and tells what a script finds on it."""

import html
import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)

needed = pytest.mark.skipif(
    PATH is None, reason="no browser: apt-get install chromium-headless-shell"
)

INSERT = """
<script>
(async () => {
  const found = {};
  try {
    %s
  } catch (error) {
    found.error = String(error);
  }
  const place = document.createElement("pre");
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
})();
</script>
</body>
"""


def look(page, script, folder, *flags):
    """Opens a page in a window of 1200 x 900 pixels and runs a script after the page's own.

    Args:
        page: str, the HTML.
        script: JavaScript, which may await, and sets properties of the object `found`.
        folder: `pathlib.Path`, a directory to work in.
        flags: of the browser.

    Returns:
        `found`, and the lines that the browser wrote to its console: errors, and what a policy of
        the page refused.
    """
    before, after = page.split("</body>")
    path = folder / "page.html"
    path.write_text(before + INSERT % script + after)
    browser = [PATH, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    window = ["--window-size=1200,900", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*browser, *window, "--virtual-time-budget=5000", "--dump-dom", *flags, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr
    found = json.loads(html.unescape(match[1]))
    assert "error" not in found, found["error"]
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
