from .evaluate import evaluate_folder as evaluate_folder
from .load_back import load_back_begun as load_back_begun
from .outputs import predict_outputs as predict_outputs
from .outputs import predict_split as predict_split
from .predict import predict_inputs as predict_inputs
from .result_folder import load_folder as load_folder
from .scores import Results as Results
from .scores import score as score
