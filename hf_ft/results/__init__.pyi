from .publishing import push as push
from .saving import save as save
