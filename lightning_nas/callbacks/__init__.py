"""Lightning callbacks: changes in the course of a search, its health, safe run folders, Weights & Biases."""

from lightning_nas.callbacks.alpha_sync import AlphaSyncCheck
from lightning_nas.callbacks.checkpoint_io import AtomicCheckpointIO
from lightning_nas.callbacks.freeze import FreezeArchitecture
from lightning_nas.callbacks.gradual_pruning import GradualPruning
from lightning_nas.callbacks.health import HealthMonitor
from lightning_nas.callbacks.image_results import ImageResults
from lightning_nas.callbacks.media_log import Media, MediaLog
from lightning_nas.callbacks.monitor_check import MonitorCheck
from lightning_nas.callbacks.narrowed_space import NarrowedSpace
from lightning_nas.callbacks.operation_stopping import OperationStopping
from lightning_nas.callbacks.p_darts import PDARTSPhases
from lightning_nas.callbacks.prediction_file import PredictionFile
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.callbacks.progress_lines import ProgressLines, RichBar, TimeEstimate, TQDMBar
from lightning_nas.callbacks.rank_watch import RankWatch
from lightning_nas.callbacks.resume_check import ResumeCheck
from lightning_nas.callbacks.run_config import RunConfig
from lightning_nas.callbacks.run_folder import RunFolder
from lightning_nas.callbacks.step_seed import StepSeed
from lightning_nas.callbacks.wandb_log import WandbLog, WandbRunLogger

__all__ = [
    "AlphaSyncCheck",
    "AtomicCheckpointIO",
    "FreezeArchitecture",
    "GradualPruning",
    "HealthMonitor",
    "ImageResults",
    "Media",
    "MediaLog",
    "MonitorCheck",
    "NarrowedSpace",
    "OperationStopping",
    "PDARTSPhases",
    "PredictionFile",
    "PreemptionCheckpoint",
    "ProgressLines",
    "RankWatch",
    "ResumeCheck",
    "RichBar",
    "RunConfig",
    "RunFolder",
    "StepSeed",
    "TQDMBar",
    "TimeEstimate",
    "WandbLog",
    "WandbRunLogger",
]
