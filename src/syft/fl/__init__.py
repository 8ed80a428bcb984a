"""Federated learning: datasets at workers, loaders over them, averaging of models."""

from .dataloader import FederatedDataLoader
from .dataset import BaseDataset, FederatedDataset, dirichlet_split, federate
from .optims import Optims

__all__ = ["BaseDataset", "FederatedDataLoader", "FederatedDataset", "Optims", "dirichlet_split", "federate"]
