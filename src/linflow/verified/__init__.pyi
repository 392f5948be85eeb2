from .certifying import certify as certify
from .comparison import FlowDescentGap as FlowDescentGap
from .comparison import flow_descent_gap as flow_descent_gap
from .descent import DescentEnclosure as DescentEnclosure
from .enclosure import Enclosure as Enclosure
from .run import enclose as enclose
from .steps import VerifiedStep as VerifiedStep
from .steps import safe_step_size as safe_step_size
