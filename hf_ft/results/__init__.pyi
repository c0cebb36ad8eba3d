from .finetune_result import FinetuneResult as FinetuneResult
from .publish_result import NotPublished as NotPublished
from .publish_result import publish_result as publish_result
from .run_soup import soup as soup
from .saving import save as save
