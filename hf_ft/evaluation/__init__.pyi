from .inference import evaluate_folder as evaluate_folder
from .inference import predict_inputs as predict_inputs
from .load_back import verify_load_back as verify_load_back
from .outputs import predict_split as predict_split
from .scores import Results as Results
from .scores import score as score
