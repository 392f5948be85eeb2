from . import bounds as bounds
from . import init as init
from . import plots as plots
from .certificates import Certificate as Certificate
from .certificates import Check as Check
from .certificates import Guarantee as Guarantee
from .certificates import certify as certify
from .certificates import margin as margin
from .dynamics import Result as Result
from .dynamics import Stats as Stats
from .dynamics import Trajectory as Trajectory
from .dynamics import gradient_descent as gradient_descent
from .dynamics import gradient_flow as gradient_flow
from .imbalance import ImbalanceSpectrum as ImbalanceSpectrum
from .imbalance import imbalance_drift as imbalance_drift
from .imbalance import imbalance_matrices as imbalance_matrices
from .imbalance import imbalance_spectrum as imbalance_spectrum
from .network import Network as Network
from .objectives import Objective as Objective
from .operator import TangentOperator as TangentOperator
from .quadratics import LinearRegression as LinearRegression
from .quadratics import MatrixFactorization as MatrixFactorization
from .quadratics import Quadratic as Quadratic

__version__: str
