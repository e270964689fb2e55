"""Executed notebooks as pages that load nothing from outside and run nothing, whoever executed them."""

import functools
import html
import re
from pathlib import Path

from morocco_lib import fileio, foreign

# Of every page: no script, no request, no form; styles and images are in the page itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
PAGE_BYTES = 32 << 20
_TAGS = set(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img li ol "  # noqa: SIM905
    "p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul".split()
)
_ATTRIBUTES = set("align alt border class colspan height id rowspan scope style title width".split())  # noqa: SIM905
_ATTRIBUTE = r"""\s+([^\s"'<>/=]+)(?:\s*=\s*("[^"<>]*"|'[^'<>]*'|[^\s"'<>=`]+))?"""
_MARKUP = re.compile(rf"<!--[^<>]*-->|<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:{_ATTRIBUTE})*)\s*/?>|<")
_STYLE_BLOCK = re.compile(r"<style[^<>]*>([^<]*)</style>", re.IGNORECASE)
_STRANGE_CSS = re.compile(r"[@\\&<>]|/\*|url|image|position|content|behavior|expression|binding|var\(", re.IGNORECASE)

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


@functools.cache
def exporter():
    """Return nbconvert's exporter; compiling its templates is a third of rendering a notebook."""
    from nbconvert import HTMLExporter

    return HTMLExporter(template_name="basic")


def notebook_html(notebook: Path, page: Path) -> None:
    """Render an executed notebook into one self-contained page: no script, no request."""
    import nbformat

    content = nbformat.reads(foreign.read_text(notebook), as_version=4)
    body, _ = exporter().from_notebook_node(content)
    fileio.write_text(page, _page(body, notebook.parent.name))


def stranger_page(source: Path) -> str:
    """Return a rendered notebook, which may be anyone's, as a page that holds nothing but text, tables and images.

    Raises:
        UsageError: it is no file, or too large.
    """
    raw = foreign.read_bytes(source, within=source.parent, limit=PAGE_BYTES)
    head, body, rest = raw.decode(errors="replace").partition("<body>")
    return _page(rest if body else head, source.parent.name)


def _page(body: str, title: str) -> str:
    from pygments.formatters import HtmlFormatter

    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{highlight}\n{_STYLE}</style></head>\n"
        f"<body>\n{clean(body)}\n</body></html>\n"
    )


def clean(body: str) -> str:
    """Return HTML with the tags and attributes that a notebook's text, tables and figures need, and no others.

    In linear time: no parser of HTML is, for input made to slow it down. Each "<" of the result begins such a tag.
    """
    styles = [css for css in _STYLE_BLOCK.findall(body) if not _STRANGE_CSS.search(css)]  # pandas colours cells by id
    cleaned = _MARKUP.sub(_tag, _STYLE_BLOCK.sub("", body))
    return "".join(f"<style>{css}</style>" for css in styles) + cleaned


def _tag(found: re.Match) -> str:
    closing, name, attributes = found[1], (found[2] or "").lower(), found[3]
    if not name:
        return "&lt;" if found[0] == "<" else ""  # a comment
    if name not in _TAGS:
        return ""
    kept = ""
    for attribute, value in re.findall(_ATTRIBUTE, "" if closing else attributes):
        value = (value[1:-1] if value[:1] in ("'", '"') else value).replace('"', "&quot;")
        if _allowed(name, attribute.lower(), value):
            kept += f' {attribute.lower()}="{value}"'
    return f"<{closing}{name}{kept}>"


def _allowed(tag: str, attribute: str, value: str) -> bool:
    if (tag, attribute) == ("img", "src"):
        return value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
    if (tag, attribute) == ("a", "href"):
        return value.startswith(("#", "http://", "https://"))
    return attribute in _ATTRIBUTES and not (attribute == "style" and _STRANGE_CSS.search(value))
