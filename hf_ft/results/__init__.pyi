from .end_of_run_upload import NotPublished as NotPublished
from .end_of_run_upload import publish_result as publish_result
from .finetune_result import FinetuneResult as FinetuneResult
from .redrawing import redraw_run as redraw_run
from .repetition import Repetition as Repetition
from .repetition import read_repetition as read_repetition
from .run_soup import soup as soup
from .saving import save as save
