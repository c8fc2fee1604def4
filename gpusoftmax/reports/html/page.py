"""The page itself: a template with everything that it needs in one file."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import Any


def require_packages() -> None:
    """Raise ImportError if a package that reports need is not installed."""
    for name in ("altair", "vl_convert", "jinja2", "PIL"):
        if find_spec(name) is None:
            raise ImportError(f"reports need {name}, which is not installed; pip install 'gpusoftmax[report]'")


@cache
def _script() -> str:
    """Vega, Vega-Lite, Vega-Embed and our own script, bundled."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(_asset("page.js"))
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def render(content: dict[str, Any]) -> str:
    """Return the page as HTML; whatever is in `content` stays text."""
    from jinja2 import Environment

    script, style = _script(), _asset("page.css")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("page.html.j2"))
    # only scripts that carry this word may run, which no name of a class can know
    nonce = hashlib.sha256(f"{content!r}{len(script)}".encode()).hexdigest()[:32]
    return template.render(**content, script=script, style=style, nonce=nonce)
