"""A local Hub: the part of its HTTP protocol that the libraries of Hugging Face use, on loopback, for tests.

`huggingface_hub`, `transformers`, `datasets`, `peft` and `timm` speak to it unmodified through `HF_ENDPOINT`.
"""

from tests.hub.faults import Fault
from tests.hub.repository import Blob, Commit, Repository
from tests.hub.server import LocalHub

__all__ = ["Blob", "Commit", "Fault", "LocalHub", "Repository"]
