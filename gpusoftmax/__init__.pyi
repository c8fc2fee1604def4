from gpusoftmax.array import resolve as resolve
from gpusoftmax.certificate import FitReport as FitReport
from gpusoftmax.datasets import load_cifar10 as load_cifar10
from gpusoftmax.datasets import load_data as load_data
from gpusoftmax.datasets import load_digits as load_digits
from gpusoftmax.estimators import LinearSVMClassifier as LinearSVMClassifier
from gpusoftmax.estimators import SoftmaxClassifier as SoftmaxClassifier
from gpusoftmax.exceptions import BackendUnavailableError as BackendUnavailableError
from gpusoftmax.exceptions import BadFileError as BadFileError
from gpusoftmax.exceptions import DivergenceError as DivergenceError
from gpusoftmax.gradcheck import GradientRecord as GradientRecord
from gpusoftmax.gradcheck import gradient_check as gradient_check
from gpusoftmax.objective import loss_and_gradient as loss_and_gradient
from gpusoftmax.objective import softmax_cross_entropy as softmax_cross_entropy
from gpusoftmax.persist import load_model as load_model
from gpusoftmax.persist import save_model as save_model
from gpusoftmax.probes import ProbeResult as ProbeResult
from gpusoftmax.probes import linear_probe as linear_probe
from gpusoftmax.recipes import CourseSweep as CourseSweep
from gpusoftmax.recipes import sweep_cs231n as sweep_cs231n
from gpusoftmax.recipes import train_cs231n as train_cs231n
from gpusoftmax.search.classifier_cv import SoftmaxClassifierCV as SoftmaxClassifierCV
from gpusoftmax.search.result import SweepResult as SweepResult
from gpusoftmax.search.sweeping import sweep as sweep
from gpusoftmax.trainer import EarlyStopping as EarlyStopping
from gpusoftmax.trainer import Record as Record

__version__: str
