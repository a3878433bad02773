"""Which arguments a space's ``network`` is given, and what is refused before anything is trained."""

from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.spaces import ConstrainedSpace, DARTSSpace, NASBenchMacroSpace, build_network
from lightning_nas.spaces.sized import taken_arguments

GIVEN: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8)}
SIZES = {"channels": 4, "cells": 1, "auxiliary": False}


class Demanding(NASBenchMacroSpace):
    """Its networks need an argument that is not given."""

    def network(self, architecture: Architecture, *, num_classes: int, image_shape: Sequence[int], depth: int) -> Any:
        return nn.Identity()


class Headed(NASBenchMacroSpace):
    """Says that it has an auxiliary classifier; its network is not a module either, unless there is to be one."""

    def network(
        self, architecture: Architecture, *, num_classes: int, image_shape: Sequence[int], auxiliary: bool = False
    ) -> Any:
        return nn.Identity() if auxiliary else "network"


class Open(NASBenchMacroSpace):
    """Takes whatever there is."""

    def network(self, architecture: Architecture, **options: Any) -> Any:
        return nn.Linear(options["channels"], options["cells"])


def test_a_space_gets_the_sizes_that_it_takes() -> None:
    macro = NASBenchMacroSpace()
    assert taken_arguments(DARTSSpace(), {**GIVEN, **SIZES}) == {**GIVEN, **SIZES}
    assert taken_arguments(macro, {**GIVEN, **SIZES}) == GIVEN
    assert taken_arguments(ConstrainedSpace(macro, lambda _: {}, {}), {**GIVEN, **SIZES}) == GIVEN
    made: Any = build_network(Open(), Open().largest(), **GIVEN, **SIZES)
    assert made.weight.shape == (1, 4)


@pytest.mark.parametrize(
    ("space", "more", "match"),
    [
        (NASBenchMacroSpace(), {"auxiliary": True}, "networks of NASBenchMacroSpace have none. Set auxiliary_weight"),
        (NASBenchMacroSpace(), {"stem": "x"}, "NASBenchMacroSpace does not take stem. It must take num_classes and"),
        (Demanding(), {}, "network of Demanding needs depth. .* defaults for all other arguments"),
        (Headed(), {}, "returns an object of str; it must return a torch.nn.Module"),
        (Headed(), {"auxiliary": True}, "Identity has no method forward_auxiliary"),
    ],
)
def test_what_cannot_be_built_is_refused(space: Any, more: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build_network(space, space.largest(), **GIVEN, **{**SIZES, **more})
