"""Neural architecture search as PyTorch Lightning modules.

Every subpackage exports its public classes, and configuration files may name them without their module:

- ``tasks``: one ``LightningModule`` per stage, such as ``DistillTask``, ``BilevelTask`` and ``TrainTask``.
- ``data``: data modules for images in memory and in folders, and for the two halves of a search.
- ``spaces``: search spaces with their networks and supernets, such as ``DARTSSpace`` and ``NASBench201Space``.
- ``distill``: proxies, small data sets that replace a large one in a search.
- ``differentiable``: the components of differentiable search, such as relaxations and hypergradients.
- ``supernets``: training and scoring of supernets of single paths.
- ``strategies``, ``predictors``: search by queries, with or without a learned predictor.
- ``evaluation``, ``tables``, ``metrics``: what answers a query, known results, and how rankings are compared.
- ``callbacks``: changes during a search, health checks, resuming, Weights & Biases.
- ``export``, ``report``: networks as files without this library, and results as web pages.

``lightning-nas --help`` lists the commands.

Example:
    ```python
    import torch
    from lightning_nas.spaces import DARTSSpace

    space = DARTSSpace()
    architecture = space.sample(torch.Generator().manual_seed(0))
    network = space.network(architecture, num_classes=10, image_shape=(3, 32, 32), channels=16)
    ```
"""

__version__ = "0.1.0"
