from .data import Splits as Splits
from .data import load_splits as load_splits
from .errors import UserError as UserError
from .evaluation import LoadedModel as LoadedModel
from .evaluation import load as load
from .evaluation import score as score
from .experiments import compare as compare
from .experiments import depth as depth
from .feature_cache import FeatureCache as FeatureCache
from .finetuning import finetune as finetune
from .finetuning import parse as parse
from .finetuning import rank as rank
from .models import DepthGroup as DepthGroup
from .models import DepthGroups as DepthGroups
from .models import depth_groups as depth_groups
from .models import freeze as freeze
from .models import load_model as load_model
from .models import param_groups as param_groups
from .publishing import Publication as Publication
from .publishing import push as push
from .results import FinetuneResult as FinetuneResult
from .results import save as save
from .results import soup as soup
from .settings import Config as Config
from .training import make_plan as make_plan
from .training import train as train

__version__: str
