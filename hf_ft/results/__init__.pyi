from .finetune_result import FinetuneResult as FinetuneResult
from .publishing import push as push
from .saving import save as save
