from .descent import gradient_descent as gradient_descent
from .flow import gradient_flow as gradient_flow
from .many import Failure as Failure
from .many import gradient_flow_many as gradient_flow_many
from .trajectory import Interrupted as Interrupted
from .trajectory import Result as Result
from .trajectory import Stats as Stats
from .trajectory import Trajectory as Trajectory
