"""Run PyTorch on data you cannot see."""

from .pointer import PointerTensor
from .sending import send
from .workers import VirtualWorker, get_worker, local_worker
