"""What a card says of licence and languages is read where it is valid, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_ft.environment.hub_cards import CardFacts, card_facts


@pytest.mark.parametrize(
    ("front", "facts"),
    [
        ("license: Apache-2.0\nlanguage: en\n", CardFacts("apache-2.0", languages=("en",))),
        ("license: [mit]\nlanguage: [en, pt-BR, zh-Hant]\n", CardFacts("mit", languages=("en", "pt-BR", "zh-Hant"))),
        (
            "license: other\nlicense_name: own\nlicense_link: LICENSE\n",
            CardFacts("other", licence_name="own", licence_link="LICENSE"),
        ),
        ("license: [mit, gpl]\nlanguage: English (mostly)\n", CardFacts()),
        ("license: 3\nlanguage: {de: 1}\n", CardFacts()),
        ("language: no\n", CardFacts()),  # YAML reads `no` as false
        ("license: [mit\n", CardFacts()),
        ("- a list\n", CardFacts()),
    ],
)
def test_cards_of_folders(front: str, facts: CardFacts, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}---\n# Title\n")
    assert card_facts(str(tmp_path)) == facts


def test_no_card_says_nothing(tmp_path: Path) -> None:
    """A folder without a card, one that is no text, and a repository that cannot be reached."""
    assert card_facts(str(tmp_path)) == CardFacts()
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert card_facts(str(tmp_path)) == CardFacts()
    assert card_facts("nobody/has-this-repository") == CardFacts()


def test_a_packaged_model_has_its_licence(minilm: str) -> None:
    assert card_facts(minilm) == CardFacts("apache-2.0", languages=("en",))
