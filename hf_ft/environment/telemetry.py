"""Usage data that libraries send by themselves."""

from __future__ import annotations

import sys
from typing import Any


def block_telemetry() -> None:
    """Keep OpenVINO and NNCF from sending usage data when they are imported, as they do unless the user opts out.

    Without the package that sends it they run all the same. What has been imported before stays as it is.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
