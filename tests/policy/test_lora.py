"""Adapters on one base: each trains when and only when it should; PEFT loads what we save."""

from __future__ import annotations

import hashlib

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from mappa.checkpoint import check_adapters
from mappa.config import ASSETS
from mappa.errors import CheckpointError, ConfigError
from mappa.policy.lora import Adapters
from mappa.policy.low_rank import Added
from mappa.policy.model import Model
from mappa.types import BASE

AGENTS = ("solver", "executor", "verifier")


@pytest.fixture
def adapters() -> Adapters:
    return Adapters(Model(str(ASSETS / "tiny"), "float32").load(), AGENTS, rank=4, alpha=8, seed=1)


def base_hash(adapters: Adapters) -> str:
    digest = hashlib.sha256()
    for name, parameter in adapters.model.named_parameters():
        if "lora_" not in name:
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def weights(adapters: Adapters) -> dict[str, torch.Tensor]:
    return {agent: torch.cat([p.detach().flatten() for p in adapters.parameters(agent)]).clone() for agent in AGENTS}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 13).unsqueeze(0)).logits


def perturb(adapters: Adapters) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for agent in AGENTS:
            for parameter in adapters.parameters(agent):
                parameter.add_(torch.randn_like(parameter) * 0.05)


def test_each_adapter_trains_when_and_only_when_it_is_selected(adapters: Adapters):
    optimizers = {agent: torch.optim.SGD(adapters.parameters(agent), lr=1.0) for agent in AGENTS}
    frozen = base_hash(adapters)
    for agent in ("executor", "verifier", "solver"):
        before = weights(adapters)
        adapters.select(agent)
        adapters.model(input_ids=torch.arange(3, 13).unsqueeze(0)).logits.square().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        after = weights(adapters)
        changed = {name for name in AGENTS if not torch.equal(before[name], after[name])}
        assert changed == {agent}
    assert base_hash(adapters) == frozen


def test_selecting_never_takes_requires_grad_away(adapters: Adapters):
    adapters.select("verifier")
    assert all(p.requires_grad for agent in AGENTS for p in adapters.parameters(agent))
    assert all(not p.requires_grad for name, p in adapters.model.named_parameters() if "lora_" not in name)


def test_adapters_share_no_parameter_and_cover_all_of_lora(adapters: Adapters):
    mine = [id(p) for agent in AGENTS for p in adapters.parameters(agent)]
    assert len(mine) == len(set(mine)) == sum("lora_" in name for name, _ in adapters.model.named_parameters())


def test_disabled_is_the_base(adapters: Adapters):
    expected = logits(Model(str(ASSETS / "tiny"), "float32").load())
    perturb(adapters)
    with adapters.disabled():
        assert torch.equal(logits(adapters.model), expected)
    assert not torch.allclose(logits(adapters.model), expected)


def test_disabling_leaves_every_adapter_trainable(adapters: Adapters):
    with adapters.disabled():
        pass
    assert all(p.requires_grad for agent in AGENTS for p in adapters.parameters(agent))


def test_the_base_acts_whatever_was_selected(adapters: Adapters):
    base = logits(adapters.base)
    perturb(adapters)
    adapters.select("executor")
    with adapters.acting(BASE):
        assert torch.equal(logits(adapters.model), base)
    assert not torch.allclose(logits(adapters.model), base), "the one selected before acts again"
    with adapters.acting("solver"):
        assert not torch.allclose(logits(adapters.model), base)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_of_several_agents_share_a_pass(checkpointing: bool):
    """Words and gradients are those of a pass for each agent, the base's rows among them."""
    base = Model(str(ASSETS / "tiny"), "float32", gradient_checkpointing=checkpointing).load()
    adapters = Adapters(base, AGENTS, rank=4, alpha=8, seed=1)
    adapters.model.train()
    perturb(adapters)
    speakers = (("executor", 2), (BASE, 1), ("solver", 3))
    ids_BT = torch.randint(3, 60, (6, 12), generator=torch.Generator().manual_seed(0))

    def gradients(logits: torch.Tensor) -> list[torch.Tensor | None]:
        logits.square().mean().backward()
        found = [p.grad for agent in AGENTS for p in adapters.parameters(agent)]
        adapters.model.zero_grad()
        return found

    adapters.select_rows(speakers)
    together = adapters.model(input_ids=ids_BT).logits
    ours = gradients(together)
    adapters.select_rows(speakers)
    alone = []
    for (agent, _), part_BT in zip(speakers, ids_BT.split([2, 1, 3]), strict=True):
        adapters.select(agent)
        alone.append(adapters.model(input_ids=part_BT).logits)
        if agent != BASE:
            (alone[-1].square().sum() / together.numel()).backward()
    theirs = [p.grad for agent in AGENTS for p in adapters.parameters(agent)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert [g is None for g in ours] == [g is None for g in theirs]
    assert any(g is None for g in theirs), "the verifier did not act"
    for mine, other in zip(ours, theirs, strict=True):
        if mine is not None:
            assert (mine - other).norm() <= 1e-6 * max(1.0, other.norm().item())


@pytest.mark.parametrize(("autocast", "seen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_under_autocast_no_input_is_copied_to_float32(autocast: bool, seen: torch.dtype, monkeypatch):
    """PEFT casts every layer's input to its adapter's float32, which autocast then casts back."""
    adapters = Adapters(Model(str(ASSETS / "tiny"), "bfloat16").load(), AGENTS, rank=4, alpha=8, seed=1)
    found, added = set(), Added.apply
    monkeypatch.setattr(Added, "apply", lambda x, *rest: found.add(x.dtype) or added(x, *rest))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert logits(adapters.model).dtype == torch.bfloat16
    assert found == {seen}


@pytest.mark.parametrize("wants_x", [True, False])
def test_gradients_of_what_is_added_are_the_numerical_ones(wants_x: bool):
    """Three voices and rows of the base, of different numbers of rows."""
    torch.manual_seed(0)
    shapes = [(7, 3, 5), (7, 3, 4), (2, 5), (2, 5), (4, 2), (4, 2)]
    x, out, *pairs = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)

    def added(x, out, a, c, b, d):
        return Added.apply(x, out, [2, 1, 3, 1], 0.7, a, None, c, a, b, None, d, b)

    assert torch.autograd.gradcheck(added, (x.detach().requires_grad_(wants_x), out, *pairs))
    a, c, b, d = (pair.detach() for pair in pairs)
    rows = [(a, b)] * 2 + [None] + [(c, d)] * 3 + [(a, b)]
    by_hand = [o if row is None else o + 0.7 * i @ row[0].T @ row[1].T for i, o, row in zip(x, out, rows, strict=True)]
    torch.testing.assert_close(added(x, out, *pairs), torch.stack(by_hand))


def test_dropout_is_of_the_adapters_alone_and_of_training_alone():
    ids_BT = torch.arange(30, 60).view(3, 10)
    speakers = ((AGENTS[0], 1), (BASE, 1), (AGENTS[1], 1))
    said = {}
    for dropout in (0.0, 0.5):
        adapters = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), AGENTS, rank=4, alpha=8, dropout=dropout)
        with adapters.disturbed():
            for training in (False, True):
                adapters.model.train(training)
                adapters.select_rows(speakers)
                said[dropout, training] = adapters.model(input_ids=ids_BT).logits
    torch.testing.assert_close(said[0.5, False], said[0.0, False])
    torch.testing.assert_close(said[0.5, True][1], said[0.0, True][1])
    for row in (0, 2):
        assert (said[0.5, True][row] - said[0.0, True][row]).abs().max() > 0.1


def test_layers_that_do_not_see_whole_rows_are_not_shared(adapters: Adapters):
    layer = adapters.base.model.layers[0].mlp.up_proj
    adapters.select("solver")
    layer(torch.ones(6, 128))
    assert not adapters.mixes
    adapters.select_rows((("solver", 1), ("verifier", 1)))
    with pytest.raises(ConfigError, match="cannot share a forward pass"):
        logits(adapters.model)


def test_reset_restores_the_creation_bit_for_bit(adapters: Adapters):
    before = weights(adapters)
    perturb(adapters)
    assert all(not torch.equal(before[agent], now) for agent, now in weights(adapters).items())
    adapters.reset()
    assert all(torch.equal(before[agent], now) for agent, now in weights(adapters).items())
    assert all(p.requires_grad for agent in AGENTS for p in adapters.parameters(agent))


def test_round_trip_and_stock_peft(adapters: Adapters, tmp_path):
    perturb(adapters)
    adapters.save(tmp_path)
    fresh = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), AGENTS, rank=4, alpha=8, seed=2)
    assert fresh.fingerprint() != adapters.fingerprint()
    fresh.load(tmp_path)
    assert fresh.fingerprint() == adapters.fingerprint()
    for agent in AGENTS:
        stock = PeftModel.from_pretrained(Model(str(ASSETS / "tiny"), "float32").load(), tmp_path / agent).eval()
        adapters.select(agent)
        with adapters.evaluating():
            assert torch.allclose(logits(stock), logits(adapters.model), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 8}, r"has rank 4, but lora.rank=8; set lora.rank=4"),
        ({"alpha": 16}, r"has alpha 8, but lora.alpha=16; set lora.alpha=8"),
        ({"targets": ["q_proj"]}, r"has targets down_proj,.*, but lora.targets=q_proj; set lora.targets=\[down_proj,"),
        ({"agents": ("judge",)}, r"no adapter for agent 'judge'"),
    ],
)
def test_another_shape_is_refused_before_weights_are_read(settings: dict, message: str, adapters: Adapters, tmp_path):
    adapters.save(tmp_path)
    base = Model(str(ASSETS / "tiny"), "float32").load()
    other = Adapters(base, **({"agents": AGENTS, "rank": 4, "alpha": 8} | settings))
    with pytest.raises(CheckpointError, match=message):
        other.load(tmp_path)


def test_adapters_of_another_base_are_refused(adapters: Adapters, tmp_path):
    adapters.save(tmp_path)
    lora = {"rank": 4, "alpha": 8, "targets": "all-linear"}
    check_adapters(tmp_path, AGENTS, lora, "elsewhere/tiny")
    with pytest.raises(CheckpointError, match=r"was trained on .*tiny, but model.path=Qwen/Qwen3-4B; set"):
        check_adapters(tmp_path, AGENTS, lora, "Qwen/Qwen3-4B")


def test_a_checkpoint_with_a_tensor_too_few_is_refused(adapters: Adapters, tmp_path):
    adapters.save(tmp_path)
    path = tmp_path / "executor" / "adapter_model.safetensors"
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != lost}, path)
    with pytest.raises(CheckpointError, match=rf"does not hold the tensors of adapter 'executor': {lost} has no match"):
        adapters.load(tmp_path)


def test_an_agent_may_be_called_as_a_module_or_a_part_of_another(tmp_path):
    agents = ("model", "layers", "critic", "critic_1")
    made = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), agents, rank=4, alpha=8, seed=1)
    mine = [id(p) for agent in agents for p in made.parameters(agent)]
    assert len(mine) == len(set(mine)) == sum("lora_" in name for name, _ in made.model.named_parameters())
    with torch.no_grad():
        for index, agent in enumerate(agents):
            for parameter in made.parameters(agent):
                parameter.fill_(0.01 * (index + 1))
    made.save(tmp_path)
    again = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), agents, rank=4, alpha=8, seed=2)
    again.load(tmp_path)
    assert again.fingerprint() == made.fingerprint()
    stock = PeftModel.from_pretrained(Model(str(ASSETS / "tiny"), "float32").load(), tmp_path / "model").eval()
    made.select("model")
    with made.evaluating():
        assert torch.allclose(logits(stock), logits(made.model), atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_saving_asks_no_hub_and_writes_the_same_bytes_again(adapters: Adapters, tmp_path):
    """PEFT would look there whether the base's vocabulary was resized, and warn that it cannot."""
    adapters.base.name_or_path = adapters.model.peft_config["solver"].base_model_name_or_path = "some/model"
    for folder in ("one", "two"):
        adapters.save(tmp_path / folder)
    for path in (tmp_path / "one").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_initial_weights_are_a_function_of_seed_and_name(adapters: Adapters):
    torch.manual_seed(123)
    again = Adapters(Model(str(ASSETS / "tiny"), "float32").load(), AGENTS, rank=4, alpha=8, seed=1)
    assert again.fingerprint() == adapters.fingerprint()
    first, second, _ = weights(adapters).values()
    assert not torch.equal(first, second)
