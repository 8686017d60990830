"""The site made of docs/: `make site`. Sphinx reads the Markdown that a reader of the repository sees.

Sphinx warns of a page that the site's menu lacks, and of a link without a target. Each warning ends the build.
"""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

project = "hangtag"
html_title = "hangtag"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_copy_source = html_show_sphinx = html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]  # JSON that is abbreviated with "..." is not valid JSON
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
copybutton_exclude = ".linenos, .gp, .go"

PARTS = {
    "Start here": ["tutorial", "glossary"],
    "How to": [
        *("how-to/own-data", "how-to/own-network", "how-to/own-onnx-file", "how-to/int8", "how-to/canary-and-cascade"),
        *("how-to/change-models", "how-to/tls", "how-to/compose", "how-to/kubernetes", "how-to/several-servers"),
        *("how-to/object-stores", "how-to/many-models", "how-to/cloud-platforms"),
        *("how-to/gpu", "how-to/ci-gate", "how-to/monitor", "how-to/troubleshoot", "how-to/upgrade"),
    ],
    "Reference": [
        *("reference/options", "reference/metrics", "reference/statuses", "reference/limits", "reference/grpc"),
        *("reference/http", "reference/client", "reference/api", "reference/pictures"),
        *("reference/export", "reference/training", "reference/routes", "reference/loadtest"),
    ],
    "Explanation": [
        *("explanation/architecture", "explanation/server", "explanation/load-testing", "explanation/threat-model"),
        *("explanation/performance", "explanation/models"),
    ],
}
"""The four parts and their pages, in the order of the site's menu."""

LINK = re.compile(r"\[([^\]]*)\]\((\.\.?/[^)\s#]*)(#[^)\s]*)?\)")


def without_links_out(_app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to files outside docs/, which the site lacks, into plain text. Warn of a link to a missing file."""

    def text_alone(link: re.Match[str]) -> str:
        target = (HERE / page).parent / link[2]
        if target.resolve().is_relative_to(HERE):
            return link[0]
        if not target.exists():
            logging.getLogger(__name__).warning("%s links to %s, which does not exist", page, link[2], location=page)
        return link[1]

    source[0] = LINK.sub(text_alone, source[0])


def with_menu(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append the menu to the first page."""
    if page == "index":
        for title, pages in PARTS.items():
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", *pages, "```\n"])


def setup(app: Sphinx) -> None:
    """Register the functions that change the text of a page."""
    app.connect("source-read", without_links_out)
    app.connect("source-read", with_menu)
