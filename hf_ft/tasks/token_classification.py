"""Token classification: one tag per word, for named entities (NER), parts of speech and similar tasks.

Only the first sub-token of a word has its tag. A sentence with more tokens than the model takes is split into windows
at word borders, in training and in prediction, so that every word gets exactly one tag.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_ft.errors import UserError, shorten
from hf_ft.metrics import ClassScore, Floats, Score, tagging
from hf_ft.modalities import get_modality
from hf_ft.tasks.base import Raw, Task
from hf_ft.tasks.class_balance import class_weights
from hf_ft.tasks.target import BoolArray, FindScale, IntArray, Judged, Learning, NamedLabels, Target
from hf_ft.tasks.tokenizer_identity import HashedTokenizer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import EvalPrediction, TrainingArguments

    from hf_ft.settings import Config, DataSettings, EncodingSettings, TrainingSettings

LONGEST = 512
"""Number of tokens in a window if `max_length` is not set: the limit of BERT and its relatives."""
IGNORED = -100
"""The label that the loss ignores: that of further sub-tokens, special tokens and padding."""

# --- Outputs ---------------------------------------------------------------------------------------------------------


def _of_windows(outputs: Any, references: Any) -> tuple[list[Any], list[Any]]:
    """Return predicted and actual tag ids of each padded window `(windows, tokens)`, at first tokens of words."""
    predicted, actual = np.asarray(outputs), np.asarray(references)
    begins = actual != IGNORED
    windows = list(zip(predicted, actual, begins, strict=True))
    return [one[mask, 0].astype(int) for one, _, mask in windows], [one[mask] for _, one, mask in windows]


def _tags(outputs: Any) -> list[list[int]]:
    """Return the tag ids of each sentence from the output of `gather`."""
    return [sentence[:, 0].astype(int).tolist() for sentence in outputs]


# --- Reading tags ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TagLabels(NamedLabels):
    """One tag per word; the column `labels` is a list of int64 per row."""

    noun: ClassVar[str] = "tag"
    unit: ClassVar[str] = "words"
    lacking: ClassVar[str] = "a missing tag"

    def problems(self, inputs: Dataset) -> Iterator[tuple[str, BoolArray]]:
        """Yield the rows with more or fewer tags than words."""
        import pyarrow.compute as pc

        from hf_ft.tables import batches

        lists = (batch["tokens"] for batch in batches(inputs.select_columns(["tokens"])))
        words = np.concatenate([pc.list_value_length(column).fill_null(0) for column in lists])
        yield "another number of tags than of words", words != self.counts

    def order(self, names: Sequence[str]) -> list[str]:
        """Return `O` first, then the others in natural order."""
        return sorted(super().order(names), key=lambda name: name != "O")

    def outputs(self, used: IntArray, notes: list[str]) -> tuple[str, ...]:
        """Return the tags, and add notes on how they are read."""
        tags = super().outputs(used, notes)
        scheme = tagging.scheme_of(tags)
        how = scheme.name if scheme.name != "BIO" else self._kind_of_bio(used)
        notes.append(f"Tags are read as {how}; entities: {shorten(scheme.types, 10)}.")
        if scheme.name in ("IOBES", "BILOU"):
            notes.append(f"`pipeline` joins words by B- and I- alone, `hf-ft predict` by {scheme.name}.")
        notes.append("Sentences longer than the model takes are split at word borders; every word is tagged.")
        return tags

    def _kind_of_bio(self, used: IntArray) -> str:
        """Return whether entities begin with B- (IOB2), or with I- unless they follow one of their own type (IOB1).

        `tagging.entities` reads both alike; the note is for users who expect one and have the other.
        """
        inside = np.isin(self.rows, used)
        rows, codes = self.rows[inside], self.codes[inside]
        parts = tagging.scheme_of(self.names).parts
        begins, is_o = (np.array([place == what for place, _ in parts])[codes] for what in "BO")
        numbers = {kind: i for i, kind in enumerate(dict.fromkeys(kind for _, kind in parts))}
        kinds = np.array([numbers[kind] for _, kind in parts])[codes]
        follows = np.zeros(len(codes), dtype=bool)  # an entity of its own type, in the same sentence
        follows[1:] = (rows[1:] == rows[:-1]) & (kinds[1:] == kinds[:-1]) & ~is_o[1:] & ~is_o[:-1]
        by_i, by_b = int((~begins & ~is_o & ~follows).sum()), int((begins & ~follows).sum())
        if not by_i:
            return "BIO (IOB2: each entity begins with B-)"
        if not by_b:
            return "BIO (IOB1: entities begin with I-, and with B- only behind one of their own type)"
        return f"BIO, of no one kind: {by_b:,} entities begin with B- as in IOB2, and {by_i:,} with I- as in IOB1"

    def column(self) -> Dataset:
        """Return the tag ids of each row."""
        import pyarrow as pa
        from datasets import Features, List, Value

        from hf_ft.tables import store

        offsets = np.append(0, np.bincount(self.rows, minlength=len(self.counts)).cumsum()).astype(np.int32)
        tags = pa.ListArray.from_arrays(offsets, self.codes)
        return store([pa.table({"labels": tags})], Features({"labels": List(Value("int64"))}))


# --- From words to batches ------------------------------------------------------------------------------------------


def prepare(processor: Any) -> Any:
    """Return a tokenizer for lists of words: byte-level ones must see a space before each word, as in running text.

    Raises:
        UserError: The tokenizer is slow, so it does not map tokens to words.
    """
    if not processor.is_fast:
        raise UserError(
            f"token_classification needs a fast tokenizer, and {type(processor).__name__} does not say which word a "
            "token belongs to. Choose a model with a tokenizer.json."
        )

    def keeps_spaces(tokenizer: Any) -> bool:
        words = ["to", "be"]
        return bool(tokenizer(words, is_split_into_words=True)["input_ids"] == tokenizer(" ".join(words))["input_ids"])

    if keeps_spaces(processor):
        return processor
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        spaced = type(processor).from_pretrained(folder, add_prefix_space=True)
    spaced.name_or_path = processor.name_or_path
    return spaced if keeps_spaces(spaced) else processor


def pack(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Split a sentence into windows.

    Args:
        lengths: The number of tokens of each word.
        room: The number of tokens that fit into a window.

    Returns:
        For each window its first word and the word after its last.
    """
    borders, filled = [0], 0
    for i, length in enumerate(lengths):
        if filled and filled + length > room:
            borders.append(i)
            filled = 0
        filled += length
    return list(pairwise([*borders, len(lengths)]))


def tokens_of(sentences: Sequence[Sequence[str]], processor: Any) -> list[list[int]]:
    """Return the number of tokens of each word in each sentence."""
    found = processor(sentences, is_split_into_words=True, add_special_tokens=False, verbose=False)
    words = [[word for word in found.word_ids(i) if word is not None] for i in range(len(sentences))]
    counts = (np.bincount(ids, minlength=len(s)) for ids, s in zip(words, sentences, strict=True))
    return [count.tolist() for count in counts]


def window_of(processor: Any, config: EncodingSettings) -> tuple[int, int]:
    """Return the maximum length of a window in tokens, and how many of them are not special tokens.

    Raises:
        UserError: `max_length` has room for special tokens only.
    """
    limit = int(min(config.max_length or LONGEST, processor.model_max_length))
    room = limit - processor.num_special_tokens_to_add(pair=False)
    if room < 1:
        raise UserError(f"max_length {limit} leaves no room for a word beside the special tokens. Raise it.")
    return limit, room


def encode(dataset: Dataset, processor: Any, config: EncodingSettings, training: bool) -> Dataset:
    """Tokenise windows of whole words, with `labels` on first sub-tokens, and the index of the sentence in `example`.

    Without tags the label of every word is 0, because labels also mark where words begin; see `reduce`.
    """
    limit, room = window_of(processor, config)
    # A word that the tokenizer drops (an empty one, control characters) becomes an unknown token, so that it has a tag.
    unknown, tokenizer = processor.unk_token or "?", HashedTokenizer(processor)

    def windows(batch: dict[str, list[Any]], examples: list[int]) -> dict[str, Any]:
        sentences = [[word or "" for word in words] for words in batch["tokens"]]
        counted = tokens_of(sentences, tokenizer)
        pieces, labels, owners = [], [], []
        tags = batch.get("labels") or [[0] * len(words) for words in sentences]
        for words, counts, own, example in zip(sentences, counted, tags, examples, strict=True):
            for a, b in pack([max(1, count) for count in counts], room):
                pieces.append([w if n else unknown for w, n in zip(words[a:b], counts[a:b], strict=True)])
                labels.append(own[a:b])
                owners.append(example)
        encoded = tokenizer(pieces, is_split_into_words=True, truncation=True, max_length=limit)
        placed = [_on_first(encoded.word_ids(i), own) for i, own in enumerate(labels)]
        return {**encoded, "labels": placed, "example": owners}

    return dataset.map(windows, batched=True, with_indices=True, remove_columns=dataset.column_names, desc="Tokenising")


def raw(rows: Dataset, processor: Any, config: EncodingSettings, folder: Path) -> Raw:
    """Return lists of words: as many of a sentence as fit into one window, because a `pipeline` truncates the rest.

    Words that the tokenizer drops are skipped: `encode` converts them to unknown tokens, but a `pipeline` does not.
    """
    from datasets import Dataset

    _, room = window_of(processor, config)
    sentences = [[word for word in words if word] for words in rows["tokens"]]
    inputs = []
    for words, counts in zip(sentences, tokens_of(sentences, processor), strict=True):
        _, end = pack([max(1, count) for count in counts], room)[0]
        inputs.append([word for word, count in zip(words[:end], counts[:end], strict=True) if count])
    inputs = [words for words in inputs if words]
    return Raw(Dataset.from_dict({"tokens": inputs}), inputs, {"is_split_into_words": True, "ignore_labels": []})


def _on_first(words: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Return one label per token: that of the word on its first sub-token, -100 elsewhere."""
    before: list[int | None] = [None, *words[:-1]]
    placed = [
        labels[word] if word is not None and word != last else IGNORED for word, last in zip(words, before, strict=True)
    ]
    assert sum(label != IGNORED for label in placed) == len(labels)
    return placed


class Collator:
    """Pad a batch, labels with -100, and drop the column that the model does not take."""

    def __init__(self, processor: Any) -> None:
        from transformers import DataCollatorForTokenClassification

        self.pad = DataCollatorForTokenClassification(processor, label_pad_token_id=IGNORED)

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        return self.pad([{name: value for name, value in row.items() if name != "example"} for row in rows])


def reduce(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Return the most likely tag and its probability, `(windows, tokens, 2)`; -100 for both where no word begins.

    The logits of all windows would not fit into memory.
    """
    import torch

    scores = (logits[0] if isinstance(logits, tuple) else logits).float().softmax(-1).max(-1)
    both = torch.stack([scores.indices.float(), scores.values], -1)
    return both.masked_fill((labels == IGNORED).unsqueeze(-1), float(IGNORED))


def gather(encoded: Dataset, outputs: Floats) -> list[Floats]:
    """Return tag ids and probabilities `(words, 2)` of each sentence, with its windows joined."""
    sentences: dict[int, list[Floats]] = defaultdict(list)
    for example, window in zip(encoded["example"], outputs, strict=True):
        sentences[example].append(window[window[:, 0] >= 0])
    return [np.concatenate(sentences[example]) for example in sorted(sentences)]


def from_text(rows: list[dict[str, Any]], processor: Any) -> dict[str, list[Any]]:
    """Return the words of raw texts with their start and end characters; lists of words are joined by blanks.

    The words of a text are those of the model's tokenizer before it divides them into sub-tokens. Most tokenizers split
    off punctuation, as tagged data do; SentencePiece tokenizers split at blanks only.
    """
    columns: dict[str, list[Any]] = {"input": [], "tokens": [], "starts": [], "ends": []}
    for row in rows:
        if words := row.get("tokens"):
            ends = np.cumsum([len(word) + 1 for word in words]) - 1
            borders = [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]
            text = " ".join(words)
        else:
            text = row["text"]
            borders = word_borders(text, processor)
        columns["input"].append(text)
        columns["tokens"].append([text[start:end] for start, end in borders])
        columns["starts"].append([start for start, _ in borders])
        columns["ends"].append([end for _, end in borders])
    return columns


def word_borders(text: str, processor: Any) -> list[tuple[int, int]]:
    """Return start and end of each word in a text, by the model's tokenizer; the whole text if it finds none."""
    encoded = processor(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pieces: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for word, offsets in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
        if word is not None:
            pieces[word].append(offsets)
    borders = [(min(a for a, _ in offsets), max(b for _, b in offsets)) for offsets in pieces.values()]
    stripped = ((a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in borders)
    return [(a, b) for a, b in stripped if a < b] or [(0, len(text))]


# --- The task -------------------------------------------------------------------------------------------------------


class Tag(Target):
    """One tag per word."""

    name = "token_classification"
    problem_type = None  # model configs have no value for it
    metrics = tagging.HIGHER_IS_BETTER
    default_metric = "f1"
    baseline_name = "lookup"
    baseline_note = (
        "`lookup` predicts the most frequent tag of each word in the training data, and the most frequent of all for "
        "new words"
    )
    refused: Mapping[str, str] = {
        **dict.fromkeys(
            ("examples_per_class", "val_examples_per_class"),
            "examples_per_class and val_examples_per_class need one label an example, and a sentence has many tags. "
            "Use --max_train_examples and --max_eval_examples.",
        ),
        "sampler": "sampler balanced needs one label per example, and a sentence has many tags. Use --class_weights.",
        "threshold": "threshold is for two classes or several labels per example, and a word has one of many tags. "
        "Leave it out.",
        "calibrate": "calibrate is for classes of whole examples, and token_classification tags words. Leave it out.",
        "label_separator": "label_separator splits text, and token_classification reads lists of tags. Leave it out.",
    }

    def read(self, rows: Dataset, column: str, config: DataSettings) -> TagLabels:
        """Read lists of names, integers or `ClassLabel`s."""
        from hf_ft.tables import holds_labels, is_list, type_name
        from hf_ft.tasks.labels import declared_names, name_of, read_names

        feature = rows.features[column]
        if not (is_list(feature) and holds_labels(feature)):
            raise UserError(
                f"Column '{column}' holds {type_name(feature)}, not lists of tags, one for each word. Choose another "
                "with --label_column, or write the lists as JSON lines."
            )
        name = name_of(feature)

        def names(cell: list[Any]) -> list[str] | None:
            found = [name(value) for value in cell]
            return None if None in found else [one for one in found if one is not None]

        return TagLabels(*read_names(rows, column, names), declared_names(feature))

    def counts(self, split: Dataset, labels: Sequence[str]) -> list[int]:
        """Return the number of words with each tag."""
        import pyarrow.compute as pc

        from hf_ft.tables import batches

        lists = (batch["labels"] for batch in batches(split.select_columns(["labels"])))
        codes = np.concatenate([pc.list_flatten(column).to_numpy() for column in lists])
        return [int(count) for count in np.bincount(codes, minlength=len(labels))]

    def learning(
        self, find_scale: FindScale, train: Dataset, labels: Sequence[str], config: Config, args: TrainingArguments
    ) -> Learning:
        """Return metrics over windows, and a loss with equal weight for every word, whatever the batches."""
        from hf_ft.tasks.losses import LossSpec, exclusive_loss, summed_loss

        def metrics(prediction: EvalPrediction) -> dict[str, float]:
            found = tagging.metric_values(*_of_windows(prediction.predictions, prediction.label_ids), labels)
            return {name: found[name] for name in self.metrics}

        spec = LossSpec.of(config, args)
        counts = self.counts(train, labels) if spec.counted else None

        def loss_of(spec: LossSpec) -> Callable[..., torch.Tensor]:
            by_word = exclusive_loss(spec, counts, labels)
            return summed_loss(lambda logits, tags: by_word(logits.flatten(0, 1), tags.flatten()))

        solvable = replace(spec, name="cross_entropy") if spec.name == "focal" else spec
        return Learning(metrics, loss_of(spec), solver_loss=loss_of(solvable) if solvable != spec else None)

    def weights(self, config: TrainingSettings, train: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the weight of each tag."""
        found = class_weights(config.class_weights, self.counts(train, labels), labels)
        return {} if found is None else dict(zip(labels, found.tolist(), strict=True))

    def by_class(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> list[ClassScore]:
        """Return the scores of each type of entity."""
        return tagging.type_scores(_tags(outputs), references, labels)

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Return the tag names of each sentence, or in evaluations by `Trainer` of each window, for `seqeval`."""
        padded = isinstance(references, np.ndarray) and references.ndim == 2
        both = _of_windows(outputs, references) if padded else (_tags(outputs), references)
        predicted, actual = ([[labels[int(code)] for code in codes] for codes in rows] for rows in both)
        return predicted, actual

    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Return all metrics over all words, with intervals over sentences."""
        return tagging.score(_tags(outputs), references, labels)

    def bootstrap(
        self, outputs: Any, references: Any, labels: Sequence[str], metric: str, threshold: float | None = None
    ) -> Floats:
        """Return one metric over all words, on resamples of the sentences."""
        return tagging.bootstrap(_tags(outputs), references, labels, metric)

    def baseline(self, train: Dataset, split: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the scores of predicting each word's most frequent tag."""
        seen: dict[str, Counter[int]] = defaultdict(Counter)
        for words, tags in zip(train["tokens"], train["labels"], strict=True):
            for word, tag in zip(words, tags, strict=True):
                seen[word][tag] += 1
        commonest = sum(seen.values(), Counter()).most_common(1)[0][0]
        known = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
        predicted = [[known.get(word, commonest) for word in words] for words in split["tokens"]]
        return tagging.metric_values(predicted, split["labels"][:], labels)

    def answers(self, outputs: Any, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the tag of every word with its probability."""
        return [[(labels[int(tag)], float(share)) for tag, share in sentence] for sentence in outputs]

    def describe(self, labels: Sequence[str]) -> str:
        """Return the number of tags."""
        return f"{len(labels)} tags"

    def usage(self, example: str, labels: Sequence[str], threshold: float | None) -> str:
        """Return a call that joins words to entities."""
        return f'classify({example}, aggregation_strategy="simple")'

    def columns(self, labels: Sequence[str]) -> list[str]:
        """Return the columns: the input, and one entity in it."""
        return ["input", "label", "text", "start", "end", "score"]

    def judged(
        self, rows: Dataset, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[Judged]:
        """Yield the entities of a sentence; the error is the number of those that differ."""
        scheme = tagging.scheme_of(labels)
        for words, found, true in zip(rows["tokens"], _tags(outputs), references, strict=True):
            both = [set(tagging.entities([scheme.parts[int(code)] for code in codes])) for codes in (true, found)]
            spoken = [
                "; ".join(f"{kind}: {' '.join(words[a:b])}" for kind, a, b in sorted(one, key=lambda one: one[1]))
                for one in both
            ]
            wrong = len(both[0] ^ both[1])
            yield Judged(spoken[0] or "none", spoken[1] or "none", None, float(wrong), not wrong)

    def results(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the entities of each row: type, text, first character and the one after the last, mean probability."""
        scheme = tagging.scheme_of(labels)
        for row, found in zip(rows, outputs, strict=True):
            spans = []
            for kind, first, last in tagging.entities([scheme.parts[int(code)] for code in found[:, 0]]):
                start, end = row["starts"][first], row["ends"][last - 1]
                score = round(float(found[first:last, 1].mean()), 6)
                spans.append(
                    {"label": kind, "text": row["input"][start:end], "start": start, "end": end, "score": score}
                )
            yield spans

    def predictions(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield one row per entity."""
        for name, spans in zip(rows["input"], self.results(rows, outputs, labels, threshold), strict=True):
            yield from ({"input": name, **span} for span in spans)


TAG = Tag()

TASK = Task(
    name="token_classification",
    summary="one tag per word, for entities or parts of speech",
    modality=get_modality("text"),
    auto_class="AutoModelForTokenClassification",
    pipeline="token-classification",
    inputs={"tokens": ("tokens", "words")},
    training={"train_sampling_strategy": "group_by_length"},  # texts of similar length need little padding
    encode=encode,
    collator=Collator,
    raw=raw,
    label_names=("ner_tags", "tags", "labels", "ner", "pos_tags", "pos", "upos", "chunk_tags", "label"),
    targets=lambda: (TAG,),
    find_target=lambda rows, column, config: TAG,
    reduce=reduce,
    gather=gather,
    prepare=prepare,
    from_text=from_text,
)
