"""Cards and pages in Markdown: labels and names come from the data, and stand there as they are, whatever they hold."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hf_ft.cli.app import main
from hf_ft.reports.model_card.hand_edits import BEGIN
from hf_ft.reports.style import clip
from hf_ft.reports.tables import code, escaped, markdown_table

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "one\n# Heading\n\n---\nmodel: x",
    "a | b\r\n| --- |",
    "[link](https://evil.example)",
    "# no heading",
    "$\\bad{$",
    "**bold** `code` &lt; \\",
)
"""Names of classes that would be something else in a page."""


def tokens(page: str) -> list[Token]:
    """All that a renderer makes of a page, what stands within lines too; the front matter is left out."""
    text = page.split("\n---\n", 1)[1] if page.startswith("---\n") else page
    top = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [token for one in top for token in (one, *(one.children or ()))]


def check_page(page: str, headings: int, bold: int = 0) -> None:
    """No HTML but a card's last line, no link but to papers and models, no heading of the data's, and whole tables."""
    found = tokens(page)
    html = [token.content for token in found if token.type in ("html_block", "html_inline")]
    assert [one for one in html if not one.startswith(BEGIN)] == []
    assert len(html) <= 1
    links = [str(token.attrs["href"]) for token in found if token.type == "link_open"]
    assert not [link for link in links if "evil" in link]
    assert len([token for token in found if token.type == "heading_open"]) == headings
    assert not [token for token in found if token.type == "hr"]
    assert len([token for token in found if token.type == "strong_open"]) == bold
    rows: list[int] = []
    for token in found:
        if token.type in ("table_open", "tr_open"):
            rows += [0]
        elif token.type in ("th_open", "td_open"):
            rows[-1] += 1
    tables: list[list[int]] = [[]] if not rows else []
    for cells in rows:
        tables = [*tables, []] if not cells else [*tables[:-1], [*tables[-1], cells]]
    assert all(len(set(table)) <= 1 for table in tables)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_what_it_is(text: str) -> None:
    """A renderer shows the text itself: in a line, in a heading, in a cell and as code; nothing else comes of it."""
    plain = " ".join(text.split())
    for page in (escaped(text), f"# {escaped(text)}", f"- {escaped(text)}", markdown_table(["x"], [[text]])):
        found = tokens(page)
        shown = [
            "".join(child.content for child in token.children if child.type in ("text", "code_inline", "text_special"))
            for token in found
            if token.children
        ]
        assert plain.replace("`", "") in [line.replace("`", "") for line in shown]
        assert not [token for token in found if token.type in ("html_block", "html_inline", "link_open", "hr")]
    assert [token.content for token in tokens(code(text)) if token.type == "code_inline"] == [plain.replace("`", "'")]


@pytest.fixture(scope="module")
def hostile_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts of classes with such names, in a folder with such a name."""
    folder = tmp_path_factory.mktemp("data") / "<b>data|x _y_"
    folder.mkdir()
    for split, count in (("train", 12), ("test", 4)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            rows.writerows([f"{split} text {i} of {k}", name] for k, name in enumerate(HOSTILE) for i in range(count))
    return str(folder)


def test_a_card_holds_names_as_text(text_model: str, hostile_data: str, tmp_path: Path) -> None:
    """The card of a whole run has its own headings only, its metadata can be read, and its pictures are drawn."""
    out = tmp_path / "out"
    words = ["train", "--task=text_classification", f"--model={text_model}", f"--dataset={hostile_data}"]
    assert main([*words, f"--output_dir={out}", "--max_steps=2", "--method=full", "--load_back_proof=false"]) == 0
    page = (out / "README.md").read_text()
    check_page(page, headings=11, bold=5)
    metadata = yaml.safe_load(page.split("\n---\n", 1)[0].removeprefix("---\n"))
    assert metadata["library_name"] == "transformers"
    assert "<b>data|x _y_" in metadata["model-index"][0]["name"]
    assert (out / "figures/confusion_matrix.png").stat().st_size > 1000
    shown = "".join(token.content for token in tokens(page) if token.type in ("text", "text_special"))
    assert HOSTILE[0] in shown


def test_pages_of_experiments_hold_names_as_text(text_model: str, hostile_data: str, tmp_path: Path) -> None:
    """Those of a comparison, a depth search and a ranking as well."""
    usual = ["--task=text_classification", f"--dataset={hostile_data}", "--max_steps=1"]
    model = Path(shutil.copytree(text_model, tmp_path / "<i>model|y"))
    one, other = f"--model={model}", str(shutil.copytree(text_model, tmp_path / "other"))
    outs = {name: f"--output_dir={tmp_path / name}" for name in ("compare", "depth", "rank")}
    assert main(["compare", *usual, one, outs["compare"], "--methods=head,full", "--seeds=1"]) == 0
    assert main(["depth", *usual, one, outs["depth"], "--depths=0,1"]) == 0
    (Path(other) / "config.json").write_text((Path(other) / "config.json").read_text() + " ")
    assert main(["rank", str(model), other, *usual, outs["rank"]]) == 0
    for name, headings in (("compare", 2), ("depth", 1), ("rank", 1)):
        check_page((tmp_path / name / f"{name}.md").read_text(), headings)


def test_names_in_pictures_are_no_mathematics() -> None:
    """Matplotlib reads what stands between dollars as TeX, and fails on what is none."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots()
    axis.set_xticks(range(2), [clip("$\\bad{$"), clip("two\nlines $x$")])
    figure.canvas.draw()
    pyplot.close(figure)
    assert "\n" not in clip("two\nlines")
