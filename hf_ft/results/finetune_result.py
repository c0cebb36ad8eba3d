"""The result of fine-tuning: the model, its processor, its scores and its files."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_ft.publishing import Publication
from hf_ft.reports import text_table, title


@dataclass
class FinetuneResult:
    """The result of a training run, returned by `finetune` and `save`.

    Args:
        record: The content of `run.json`: settings, data, stages, scores with intervals, proofs, versions.
        output_dir: The result folder, which a plain `from_pretrained` loads.
        publication: What was published on the Hub at the end, with `push_to_hub=True`.

    Example:
        >>> result = finetune(...)  # doctest: +SKIP
        >>> result.metrics["test"]["accuracy"]  # doctest: +SKIP
        0.967
        >>> result.model(**result.processor("a text", return_tensors="pt")).logits  # doctest: +SKIP
    """

    record: dict[str, Any]
    output_dir: Path
    _model: Any = field(default=None, repr=False, compare=False)
    _processor: Any = field(default=None, repr=False, compare=False)
    publication: Publication | None = None

    @property
    def model(self) -> Any:
        """The fine-tuned model in evaluation mode; loaded from `output_dir` if it is not in memory."""
        if self._model is None:
            import transformers

            self._model = getattr(transformers, self.record["auto_class"]).from_pretrained(self.output_dir).eval()
        return self._model

    @property
    def processor(self) -> Any:
        """The tokenizer or image processor of the model."""
        if self._processor is None:
            from transformers import AutoImageProcessor, AutoTokenizer

            images = (self.output_dir / "preprocessor_config.json").exists()
            self._processor = (AutoImageProcessor if images else AutoTokenizer).from_pretrained(self.output_dir)
        return self._processor

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Split -> metric -> value, including custom metrics."""
        found = {
            split: {name: score["value"] for name, score in scores.items()}
            for split, scores in self.record["metrics"].items()
        }
        custom = self.record["custom_metrics"]
        return {split: {**custom.get(split, {}), **scores} for split, scores in found.items()}

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the model's outputs: its labels, in order."""
        return tuple(self.record["data"]["labels"])

    @property
    def card(self) -> Path:
        """The path of the model card."""
        return self.output_dir / "README.md"

    @property
    def figures(self) -> list[Path]:
        """The paths of the figures, such as learning curves."""
        return sorted((self.output_dir / "figures").glob("*.png"))

    @property
    def adapter(self) -> Path | None:
        """The folder of the PEFT adapter; None if no adapter alone gives the result."""
        folder = self.output_dir / "adapter"
        return folder if folder.is_dir() else None

    def __repr__(self) -> str:
        header, rows = self._table()
        return f"{self._heading()}\n{text_table(header, rows)}\nThe model is in {self.output_dir}"

    def _repr_html_(self) -> str:
        """Return the table of scores as HTML, for notebooks."""
        header, rows = self._table()
        cells = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
        cells += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        table = "".join(f"<tr>{row}</tr>" for row in cells)
        place = f"<p>The model is in <code>{html.escape(str(self.output_dir))}</code></p>"
        return f"<p><b>{html.escape(self._heading())}</b></p><table>{table}</table>{place}"

    def _heading(self) -> str:
        record = self.record
        seconds = sum(stage["seconds"] for stage in record["stages"])
        return f"{record['method']} of {record['model']['name']} on {record['data']['name']} ({seconds:.0f} s)"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        splits = self.record["metrics"]
        header = ["metric", *(f"{split} (n={self.record['data']['sizes'][split]:,})" for split in splits)]
        rows = [
            [title(name), *(self._cell(split, name) for split in splits)]
            for name in dict.fromkeys(name for split in splits for name in self.metrics[split])
        ]
        return header, rows

    def _cell(self, split: str, name: str) -> str:
        score = self.record["metrics"][split].get(name)
        if score is not None:
            return f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"
        value = self.metrics[split].get(name)
        return "" if value is None else f"{value:.4f}"
