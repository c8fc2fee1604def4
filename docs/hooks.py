"""What MkDocs does beyond mkdocs.yml: pages of the API, pages from elsewhere in the repository, and links between them.

Every name in `gpusoftmax.__all__` gets a page when the site is built. A link that leads to a file of the repository
works on the site, too, if the site has a page for that file.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import gpusoftmax

ROOT = Path(__file__).resolve().parents[1]
# files outside docs/ and what they are called on the site
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "bench/README.md": "measuring.md",
    "kernels/README.md": "kernels.md",
    "notebooks/softmax.ipynb": "notebooks/softmax.ipynb",
} | {path.relative_to(ROOT).as_posix(): f"figures/{path.name}" for path in (ROOT / "bench/results").glob("*.svg")}
# what the public functions take and return that is not in gpusoftmax.__all__
ALSO = [
    "array.Backend",
    "datasets.Dataset",
    "reliability.ReliabilityCurve",
    "plots.FitHistoryDisplay",
    "plots.MistakesDisplay",
    "plots.ReliabilityDisplay",
    "plots.SweepDisplay",
    "plots.WeightTemplatesDisplay",
    "protocols.cs231n.LinearSVM",
    "protocols.cs231n.LossCheck",
    "protocols.cs231n.Softmax",
    "protocols.cs231n.check_loss_function",
    "solvers.LBFGS",
    "solvers.SGD",
    "trainer.TrainResult",
]
# headings of the reference by the folder or module that a name comes from, in this order; any other follows
GROUPS = {
    "estimators": "Estimators",
    "search": "Sweeps and cross-validation",
    "protocols": "Published protocols",
    "datasets": "Data",
    "files": "Data",
    "models": "Model files",
    "reports": "Reports and plots",
    "plots": "Reports and plots",
    "reliability": "Reports and plots",
    "trainer": "Training and its results",
    "loggers": "Training and its results",
    "solvers": "Training and its results",
    "objective": "Losses and gradients",
    "array": "Backends",
    "exceptions": "Errors",
}


def public() -> dict[str, Any]:
    """Each name that has a page, and the class or function."""
    found = {name: getattr(gpusoftmax, name) for name in gpusoftmax.__all__ if name != "__version__"}
    for name in ALSO:
        module, _, last = name.rpartition(".")
        found[last] = getattr(__import__(f"gpusoftmax.{module}", fromlist=[last]), last)
    return found


def identifier(name: str) -> str:
    """Where a name is imported from, in full."""
    places = {place.rpartition(".")[2]: place for place in ALSO}
    return f"gpusoftmax.{places.get(name, name)}"


def groups() -> dict[str, list[str]]:
    """The names under each heading of the reference."""
    found: dict[str, list[str]] = {title: [] for title in GROUPS.values()}
    for name, value in public().items():
        folder = value.__module__.split(".")[1]
        found.setdefault(GROUPS.get(folder, folder), []).append(name)
    return {title: sorted(names, key=str.lower) for title, names in found.items() if names}


def index() -> str:
    """The first page of the reference."""
    lines = [
        "# API reference",
        "",
        "Every public name has a page. Import from `gpusoftmax` itself, as in `from gpusoftmax import sweep`, unless",
        f"the page says otherwise. `gpusoftmax.__version__` is the version; this is {gpusoftmax.__version__}.",
        "",
    ]
    for title, names in groups().items():
        lines += [f"## {title}", "", "| name | what it is |", "|---|---|"]
        for name in names:
            paragraph = inspect.cleandoc(public()[name].__doc__ or "").partition("\n\n")[0]
            summary = " ".join(paragraph.split()).replace("|", "\\|")
            lines.append(f"| [`{name}`]({name}.md) | {summary} |")
        lines.append("")
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """Put the pages of the reference into the navigation."""
    (reference,) = [entry for entry in config.nav if "API reference" in entry]
    reference["API reference"] = ["api/index.md"] + [
        {title: [{name: f"api/{name}.md"} for name in names]} for title, names in groups().items()
    ]
    config.watch += [str(ROOT / "gpusoftmax"), *(str(ROOT / path) for path in ELSEWHERE)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the reference, and those from elsewhere in the repository."""
    files.append(File.generated(config, "api/index.md", content=index()))
    for name in public():
        text = f"---\nsearch:\n  boost: 4\n---\n\n::: {identifier(name)}\n"  # who types a name looks for its page
        files.append(File.generated(config, f"api/{name}.md", content=text))
    for path, uri in ELSEWHERE.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files of the repository to their pages."""
    places = {uri: path for path, uri in ELSEWHERE.items() if uri != "index.md"}
    here = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def lead(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
        uri = ELSEWHERE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"]({posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or '.')}" if uri else link[0]

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", lead, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Make a public name that stands in running text, such as `sweep` or `solvers.SGD`, a link to its page."""
    names = {name: name for name in public()} | {place: place.rpartition(".")[2] for place in ALSO}

    def link(found: re.Match[str]) -> str:
        name = names.get(found[3])
        if name is None or page.file.src_uri == f"api/{name}.md":
            return found[0]
        target = posixpath.relpath(f"api/{name}.html", posixpath.dirname(page.file.src_uri) or ".")
        return f'<a href="{target}"><code>{found[3]}</code></a>'

    return re.sub(r"(<(a|h\d|pre)\b.*?</\2>)|<code>([\w.]+)</code>", link, html, flags=re.S)
