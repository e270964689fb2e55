"""Executed notebooks as pages that load nothing from outside and run nothing, whoever executed them."""

import html
import re
from pathlib import Path

from morocco_lib import fileio, foreign
from morocco_lib.errors import UsageError

# Of every page: no script, no request, no form; styles and images are in the page itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_OUTPUTS = {"text/plain", "text/html", "text/markdown", "image/png", "image/jpeg"}
_TAGS = re.findall(
    r"\w+",
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img "
    "li ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul",
)
_ATTRIBUTES = {
    "align",
    "alt",
    "border",
    "class",
    "colspan",
    "height",
    "id",
    "rowspan",
    "scope",
    "style",
    "title",
    "width",
}
_STYLES = [
    "background-color",
    "border",
    "color",
    "font-size",
    "font-weight",
    "max-width",
    "text-align",
    "width",
    "word-break",
]
_STYLE_BLOCK = re.compile(r"<style[^>]*>([^<]*)</style>", re.IGNORECASE)
_STRANGE_CSS = re.compile(r"[@\\]|url|position|content|behavior|expression", re.IGNORECASE)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { font: 13px/1.45 ui-monospace, monospace; overflow-x: auto; margin: 0; white-space: pre-wrap; }
.cell { margin: 0.9rem 0; }
.input_prompt, .output_prompt, .prompt { display: none; }
.input_area { background: #f6f6f4; border-left: 3px solid #c9c9c2; padding: 0.5rem 0.8rem; }
.output_area { padding: 0.4rem 0.8rem; }
.output_stderr pre { color: #8a5a00; }
.output_error pre { color: #a40000; }
.celltag_injected-parameters .input_area { border-left-color: #0072b2; }
.celltag_papermill-error-cell-tag { color: #a40000; }
table { border-collapse: collapse; font-size: 13.5px; }
table, th, td { border: 0; }
th, td { padding: 0.25rem 0.7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
thead tr:last-child th { border-bottom: 2px solid #999; }
thead th { text-align: left !important; }
img, svg { max-width: 100%; height: auto; }
.anchor-link { display: none; }
@media (max-width: 40rem) { table { display: block; overflow-x: auto; } }
"""


def notebook_html(notebook: Path, page: Path) -> None:
    """Render an executed notebook into one self-contained page: no script, no request.

    Raises:
        UsageError: it is no notebook.
    """
    from pygments.formatters import HtmlFormatter

    body = clean(_body(notebook))
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(notebook.parent.name)}</title><style>{highlight}\n{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
    fileio.write_text(page, text)


def _body(notebook: Path) -> str:
    import nbformat
    from nbconvert import HTMLExporter

    raw = foreign.read_text(notebook, within=notebook.parent)
    try:
        content = nbformat.reads(raw, as_version=4)
        for output in (output for cell in content.cells for output in cell.get("outputs", [])):
            for kind in set(output.get("data", {})) - _OUTPUTS:
                del output.data[kind]
        return HTMLExporter(template_name="basic").from_notebook_node(content)[0]
    except Exception as error:  # whatever a library raises for what is no notebook
        raise UsageError(f"{notebook} is no notebook ({type(error).__name__}: {error})") from None


def clean(body: str) -> str:
    """Return HTML with the tags, attributes and styles that a notebook's tables and figures need, and no others."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer

    def allowed(tag: str, name: str, value: str) -> bool:
        if (tag, name) == ("img", "src"):
            return bool(re.match(r"data:image/(png|jpeg);base64,", value))
        if (tag, name) == ("a", "href"):
            return bool(re.match(r"#|https?://", value))
        return name in _ATTRIBUTES

    styles = [css for css in _STYLE_BLOCK.findall(body) if not _STRANGE_CSS.search(css)]  # pandas colours cells by id
    cleaned = bleach.clean(
        _STYLE_BLOCK.sub("", body), tags=_TAGS, attributes=allowed, css_sanitizer=CSSSanitizer(allowed_css_properties=_STYLES),
        protocols={"http", "https", "data"}, strip=True,
    )  # fmt: skip
    return "".join(f"<style>{css}</style>\n" for css in styles) + cleaned
