from .image_transforms import ImageTransform as ImageTransform
from .image_transforms import upright_rgb as upright_rgb
