"""Executed notebooks as pages that load nothing from outside."""

from pathlib import Path

from morocco_lib import fileio

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
    """Render an executed notebook into one self-contained page: no script, no request."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    content = nbformat.read(notebook, as_version=4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(content)
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    title = notebook.parent.name
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{highlight}\n{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    fileio.write_text(page, text)
