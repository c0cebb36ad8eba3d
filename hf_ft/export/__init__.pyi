from .exporting import export_model as export_model
from .formats import FORMATS as FORMATS
from .formats import QUANTIZED as QUANTIZED
from .formats import check_format as check_format
