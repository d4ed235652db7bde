"""FSDP2 by Lightning's ModelParallelStrategy: base, adapters and optimizer states are sharded over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from mappa.policy.forward import Policy
from mappa.ranks import full, sharded_like


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Shard each transformer block, and what is left, over the ranks of `mesh`; the weights are rank 0's."""
    from torch.distributed.fsdp import fully_shard

    whole = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    base = policy.model.get_base_model()
    blocks = set(base._no_split_modules or ())
    for module in [module for module in base.modules() if type(module).__name__ in blocks]:
        fully_shard(module, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(sharded_like(whole.pop(name), parameter))


class ShardedStrategy(ModelParallelStrategy):
    """All ranks are data-parallel. Checkpoints hold whole tensors, so any number of ranks can go on from them."""

    def __init__(self, process_group_backend: str | None = None, timeout_s: float = 1800.0) -> None:
        """`timeout_s`: of a collective; a rank that waits longer gives up."""
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout_s),
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: adapters are saved in PEFT's format, the base never."""
        return {}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole tensors, on the host. Collective."""
        return tree_map(lambda value: full(value).cpu() if isinstance(value, Tensor) else value, optimizer.state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only=bool(weights_only))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for index, values in state["state"].items():
                for name, value in values.items():
                    values[name] = _like(value, parameters[index])
            optimizer.load_state_dict(state)


def _like(value: Any, parameter: Tensor) -> Any:
    """Sharded as its parameter is; counters, which have no shape, stay as they are."""
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
