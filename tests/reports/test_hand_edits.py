"""A card that is made again: generated pieces are renewed, and whatever people wrote, renamed or removed stays."""

from __future__ import annotations

import pytest
import yaml

from hf_ft.reports.model_card.hand_edits import BEGIN, CardError, merged, parse, sealed

CARD = """---
license: mit
tags:
- one
metrics:
- accuracy
---

# Title

Summary.

## Use

```python
# ## no heading
call()
```

## Results

0.1

## Limits

None known.
"""
NEWER = CARD.replace("0.1", "0.2").replace("- accuracy", "- f1")


def metadata(card: str) -> dict[str, object]:
    """The front matter of a card."""
    found: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_a_sealed_card_is_the_card_with_one_line_more() -> None:
    text = sealed(CARD)
    assert text.startswith(CARD.rstrip())
    assert text.splitlines()[-1].startswith(BEGIN)
    assert list(parse(text).sections) == ["", "Use", "Results", "Limits"]
    assert "# ## no heading" in parse(text).sections["Use"]


def test_nothing_edited_gives_the_new_card() -> None:
    """To the byte, and a second time too."""
    page = merged(sealed(CARD), sealed(NEWER))
    assert page.text == sealed(NEWER)
    assert page.edited == []
    assert merged(page.text, sealed(NEWER)).text == page.text


def test_an_edited_section_stays_and_others_are_renewed() -> None:
    old = sealed(CARD).replace("None known.", "Not for medical use.")
    page = merged(old, sealed(NEWER))
    assert "Not for medical use." in page.text
    assert "0.2" in page.text
    assert "0.1" not in page.text
    assert page.edited == ["Limits"]
    again = merged(page.text, sealed(NEWER.replace("0.2", "0.3")))
    assert "Not for medical use." in again.text
    assert "0.3" in again.text


def test_own_sections_removed_ones_and_new_ones() -> None:
    """A section that a person adds stays in its place, one that is removed or renamed does not come back."""
    old = sealed(CARD).replace("## Results\n\n0.1\n\n", "").replace("## Limits", "## Authors\n\nMe.\n\n## Caveats")
    page = merged(old, sealed(NEWER + "\n## Proofs\n\nNew in this version.\n"))
    assert list(page.sections) == ["", "Use", "Proofs", "Authors", "Caveats"]
    assert page.edited[:2] == ["Authors", "Caveats"]
    assert {"Results", "Limits"} <= set(page.edited)
    assert "0.2" not in page.text
    again = merged(page.text, sealed(NEWER + "\n## Proofs\n\nNewer.\n"))
    assert "Results" not in again.sections
    assert again.sections["Proofs"] == "## Proofs\n\nNewer."


def test_metadata_are_kept_key_by_key() -> None:
    """A changed key, an added and a removed one stay so; the others are renewed."""
    old = sealed(CARD).replace("license: mit", "license: gpl-3.0\nlanguage: de").replace("tags:\n- one\n", "")
    page = merged(old, sealed(NEWER))
    assert metadata(page.text) == {"license": "gpl-3.0", "language": "de", "metrics": ["f1"]}
    assert set(page.edited) == {"license", "language", "tags"}


def test_a_section_that_is_no_longer_generated_goes_and_may_come_back() -> None:
    shorter = CARD.replace("## Limits\n\nNone known.\n", "")
    page = merged(sealed(CARD), sealed(shorter))
    assert "Limits" not in page.sections
    assert merged(page.text, sealed(CARD)).text == sealed(CARD)


def test_what_is_above_the_first_heading_may_be_edited() -> None:
    page = merged(sealed(CARD).replace("Summary.", "My summary."), sealed(NEWER))
    assert page.edited == [""]
    assert page.text.index("My summary.") < page.text.index("## Use")


def test_line_ends_and_blanks_are_no_edit() -> None:
    """An editor may write other line ends, and blanks at the end of lines."""
    old = sealed(CARD).replace("None known.", "None known.   ").replace("\n", "\r\n")
    assert merged(old, sealed(NEWER)).text == sealed(NEWER)


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (CARD, "which parts hf_ft wrote"),
        ("# My own card\n", "which parts hf_ft wrote"),
        (sealed(CARD).replace(BEGIN + "{", BEGIN + "["), "which parts hf_ft wrote"),
        (sealed(CARD).replace("license: mit", "license: [mit"), "metadata cannot be read"),
        (sealed(CARD).replace("license: mit\n", "").replace("tags:\n", "").replace("metrics:\n", ""), "no mapping"),
    ],
)
def test_cards_that_cannot_be_made_again(old: str, why: str) -> None:
    with pytest.raises(CardError, match=why):
        merged(old, sealed(NEWER))
