"""Vega's JavaScript, which vl-convert carries: it draws the charts in a page."""

from __future__ import annotations

import atexit
import subprocess
import sys
from functools import cache

from harness.errors import Unavailable, brief

_MAKE = (
    "import sys, vl_convert;"
    "made = vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;');"
    "sys.stdout.buffer.write(made.encode())"
)


@cache
def prepare() -> subprocess.Popen[bytes]:
    """Start making the bundle in another process: it takes a second."""
    maker = subprocess.Popen(
        [sys.executable, "-P", "-c", _MAKE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    atexit.register(_end, maker)
    return maker


def _end(maker: subprocess.Popen[bytes]) -> None:
    """End the process if no chart needed the bundle."""
    if maker.returncode is None:
        maker.kill()
        maker.communicate()


@cache
def bundle() -> str:
    """Return the JavaScript, safe to be inside a page. Raises `Unavailable`."""
    made, said = prepare().communicate()
    if not made:
        why = brief(said.decode(errors="replace"))
        raise Unavailable(f"charts cannot be drawn: vl-convert made no JavaScript: {why}.")
    # In a page, `</script` would end the script, also inside a string of JavaScript.
    return made.decode().replace("</script", "<\\/script")
