from .finetune_result import FinetuneResult as FinetuneResult
from .publishing import push as push
from .run_soup import soup as soup
from .saving import save as save
