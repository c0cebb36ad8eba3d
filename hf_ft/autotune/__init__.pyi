from .tuner import Autotuner as Autotuner
from .tuner import Work as Work
from .variants import USUAL as USUAL
from .variants import Variant as Variant
from .variants import applied as applied
