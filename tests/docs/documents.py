"""Run the documents as a reader would: all code cells of a notebook; of a Markdown file all python and sh blocks.

A toml block whose first line is the comment ``# NAME`` becomes that file. A node that ends a block, with
``syft serve``, lives until the document's end; ports 7100 to 7199 of 127.0.0.1 are replaced by free ones.
Blocks of make do not run.

``python tests/docs/documents.py docs/a.ipynb`` runs a document and writes what it shows into it; files that
its code makes are made in the working folder. The tests only compare.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*.ipynb"))]

# A block that runs, and the text block after it, if any, which is what it shows.
_BLOCK = re.compile(
    r"^```(?P<language>python|sh(?!\nmake )|toml(?=\n# [\w.-]+\n))\n(?P<code>.*?)^```\n"
    r"(?P<between>\n*^```text\n)?(?(between)(?P<shown>.*?)^```\n)",
    re.MULTILINE | re.DOTALL,
)

_PORT = re.compile(r"(?<=127\.0\.0\.1:)71\d\d\b")


@dataclass
class Shown:
    """What one cell shows: printed text, its last line's value as text and as SVG, plots as PNG in base64."""

    printed: str = ""
    value: str = ""
    svg: str = ""
    plots: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.printed + self.value


def run(codes: list[str]) -> list[Shown]:
    """Run cells one after the other in a namespace of their own."""
    ports = _free_ports({port for code in codes for port in _PORT.findall(code)})
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.ExitStack() as nodes:
        shown = [_run_cell(_PORT.sub(lambda match: ports[match[0]], code), namespace, nodes) for code in codes]
    for cell in shown:
        for written, free in ports.items():
            cell.printed = cell.printed.replace(f"127.0.0.1:{free}", f"127.0.0.1:{written}")
            cell.value = cell.value.replace(f"127.0.0.1:{free}", f"127.0.0.1:{written}")
    return shown


def _free_ports(written: set[str]) -> dict[str, str]:
    with contextlib.ExitStack() as stack:
        sockets = {port: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for port in written}
        return {port: str(taken.getsockname()[1]) for port, taken in sockets.items()}


def _run_cell(code: str, namespace: dict[str, Any], nodes: contextlib.ExitStack) -> Shown:
    language, _, body = code.partition("\n")
    if language == "%%sh":
        first, serve, options = body.partition("syft serve ")
        shown = _run_shell(first) if first else ""
        return Shown(printed=shown + _serve(serve + options, nodes) if serve else shown)
    if language == "%%toml":
        Path(body.split()[1]).write_text(body, encoding="utf-8")
        return Shown()
    return _run_python(code, namespace)


def _shell(code: str) -> dict[str, Any]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {"args": ["sh", "-ec", code], "env": {**os.environ, "PATH": path}, "text": True}


def _run_shell(code: str) -> str:
    done = subprocess.run(**_shell(code), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _serve(code: str, nodes: contextlib.ExitStack) -> str:
    """Start a node; return the line that says that it is ready. It ends with ``nodes``, or with this process.

    What it says before, such as how rooms are confined, depends on the machine.
    """
    command = f"exec {code.rstrip()} --until-eof"
    node = nodes.enter_context(subprocess.Popen(**_shell(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    nodes.callback(node.terminate)
    for line in node.stdout:
        if ": ready at " in line:
            return line
    raise AssertionError(f"it ended: {code}")


def _run_python(code: str, namespace: dict[str, Any]) -> Shown:
    shown, printed = Shown(), io.StringIO()
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
            if value is not None:
                shown.value = f"{value!r}\n"
            if hasattr(value, "_repr_svg_"):
                shown.svg = value._repr_svg_()
    shown.printed, shown.plots = printed.getvalue(), _plots()
    return shown


def _plots() -> list[str]:
    """Return open matplotlib figures as Jupyter keeps them, and close them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    plots = []
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, format="png", dpi=110, metadata={"Software": None})
        plots.append(base64.b64encode(file.getvalue()).decode())
    pyplot.close("all")
    return plots


def codes_and_outputs(path: Path) -> tuple[list[str], list[Shown]]:
    """Read a document's code, and what it says that the code shows."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = list(_BLOCK.finditer(text))
        return [_cell(b) for b in blocks], [Shown(printed=b["shown"] or "") for b in blocks]
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells], [_shown_in(cell["outputs"]) for cell in cells]


def _cell(block: re.Match[str]) -> str:
    """Return a block as a cell: what is not Python begins with its language, as in Jupyter."""
    return block["code"] if block["language"] == "python" else f"%%{block['language']}\n{block['code']}"


def _shown_in(outputs: list[dict[str, Any]]) -> Shown:
    shown = Shown()
    for output in outputs:
        if output["output_type"] == "stream":
            shown.printed += "".join(output["text"])
        elif "image/png" in output["data"]:
            shown.plots.append(output["data"]["image/png"])
        else:
            shown.value = "".join(output["data"]["text/plain"]) + "\n"
            shown.svg = "".join(output["data"].get("image/svg+xml", ""))
    return shown


def write(path: Path, outputs: list[Shown]) -> None:
    """Write what its code shows into a document."""
    text = path.read_text(encoding="utf-8")
    path.write_text(_WRITERS[path.suffix](text, outputs), encoding="utf-8")


def _write_markdown(text: str, outputs: list[Shown]) -> str:
    shown = iter(outputs)

    def block(match: re.Match[str]) -> str:
        output = next(shown).text
        return f"```{match['language']}\n{match['code']}```\n" + (f"\n```text\n{output}```\n" if output else "")

    return _BLOCK.sub(block, text)


def _write_notebook(text: str, outputs: list[Shown]) -> str:
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, shown) in enumerate(zip(cells, outputs, strict=True), 1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs(shown, number)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _outputs(shown: Shown, number: int) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    if shown.printed:
        outputs.append({"output_type": "stream", "name": "stdout", "text": shown.printed.splitlines(True)})
    if shown.value:
        data = {"text/plain": shown.value.removesuffix("\n").splitlines(True)}
        if shown.svg:
            data["image/svg+xml"] = shown.svg.splitlines(True)
        outputs.append({"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}})
    plots = [{"output_type": "display_data", "data": {"image/png": plot}, "metadata": {}} for plot in shown.plots]
    return outputs + plots


_WRITERS: dict[str, Callable[[str, list[Shown]], str]] = {".md": _write_markdown, ".ipynb": _write_notebook}


if __name__ == "__main__":
    if sys.argv[1] == "--show":  # as JSON, for the tests
        print(json.dumps([asdict(shown) for shown in run(codes_and_outputs(Path(sys.argv[2]))[0])]))
    else:
        document = Path(sys.argv[1])
        write(document, run(codes_and_outputs(document)[0]))
