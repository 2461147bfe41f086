"""A headless browser that opens a page and returns what a script reads from it."""

import html
import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)

_skip_without_browser = pytest.mark.skipif(
    PATH is None, reason="no browser: apt-get install chromium-headless-shell"
)


def needs_browser(function):
    """Mark a test that needs a browser; it is skipped without one."""
    return pytest.mark.browser(_skip_without_browser(function))


INSERT = """
<script>
(async () => {
  const result = {};
  try {
    %s
  } catch (error) {
    result.error = String(error);
  }
  const element = document.createElement("pre");
  element.id = "result";
  element.textContent = JSON.stringify(result);
  document.body.append(element);
})();
</script>
</body>
"""


def run_script(page, script, folder):
    """Open a page in a window of 1200 x 900 pixels and run a script after the page's own.

    Args:
        page: The HTML, str.
        script: JavaScript, which may await, and sets properties of the object `result`.
        folder: A directory to work in, `pathlib.Path`.

    Returns:
        `result`, and the lines that the browser wrote to its console, which are errors and
        violations of the page's content security policy.
    """
    before, after = page.split("</body>")
    path = folder / "page.html"
    path.write_text(before + INSERT % script + after)
    browser = [PATH, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    window = ["--window-size=1200,900", f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.run(
        [*browser, *window, "--virtual-time-budget=5000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    match = re.search(r'<pre id="result">(.*?)</pre>', process.stdout, re.DOTALL)
    assert match, process.stderr
    result = json.loads(html.unescape(match[1]))
    assert "error" not in result, result["error"]
    return result, [line for line in process.stderr.splitlines() if "CONSOLE" in line]
