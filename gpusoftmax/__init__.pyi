from gpusoftmax.array import get_backend as get_backend
from gpusoftmax.datasets import load_cifar10 as load_cifar10
from gpusoftmax.datasets import load_digits as load_digits
from gpusoftmax.estimators.classifiers import LinearSVMClassifier as LinearSVMClassifier
from gpusoftmax.estimators.classifiers import SoftmaxClassifier as SoftmaxClassifier
from gpusoftmax.exceptions import BackendUnavailableError as BackendUnavailableError
from gpusoftmax.exceptions import BadFileError as BadFileError
from gpusoftmax.exceptions import DivergenceError as DivergenceError
from gpusoftmax.files.load import load_data as load_data
from gpusoftmax.models import load_model as load_model
from gpusoftmax.models import save_model as save_model
from gpusoftmax.objective.functional import loss_and_gradient as loss_and_gradient
from gpusoftmax.objective.functional import softmax_cross_entropy as softmax_cross_entropy
from gpusoftmax.objective.gradcheck import GradientRecord as GradientRecord
from gpusoftmax.objective.gradcheck import gradient_check as gradient_check
from gpusoftmax.protocols.cs231n import CourseSweep as CourseSweep
from gpusoftmax.protocols.cs231n import sweep_cs231n as sweep_cs231n
from gpusoftmax.protocols.cs231n import train_cs231n as train_cs231n
from gpusoftmax.protocols.linear_probe import ProbeResult as ProbeResult
from gpusoftmax.protocols.linear_probe import linear_probe as linear_probe
from gpusoftmax.search.classifier_cv import SoftmaxClassifierCV as SoftmaxClassifierCV
from gpusoftmax.search.result import SweepResult as SweepResult
from gpusoftmax.search.sweep import sweep as sweep
from gpusoftmax.solvers.certificate import FitReport as FitReport
from gpusoftmax.trainer import EarlyStopping as EarlyStopping
from gpusoftmax.trainer import Record as Record

__version__: str
