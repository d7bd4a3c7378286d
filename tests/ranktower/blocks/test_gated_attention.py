from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ranktower.blocks import GatedAttentionUnit, GatedCrossAttentionNetwork


@pytest.mark.parametrize(("name", "phi"), [("silu", F.silu), ("relu", F.relu), ("gelu", F.gelu)])
def test_projections_follow_equations_7_to_10(name: str, phi: object) -> None:
    unit = GatedAttentionUnit(6, 5, activation=name)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 6)
    query, gate = unit.project_query(x)
    key, value = unit.project_key_value(x)
    assert callable(phi)
    torch.testing.assert_close(query, phi(x @ unit.query.weight.T))
    torch.testing.assert_close(key, phi(x @ unit.key.weight.T))
    torch.testing.assert_close(value, phi(x @ unit.value.weight.T))
    torch.testing.assert_close(gate, 1 / (1 + torch.exp(-(x @ unit.gate.weight.T))))


def test_no_projection_has_a_bias() -> None:
    assert [n for n, _ in GatedAttentionUnit(6, 5).named_parameters() if "bias" in n] == []


def reference_gau(unit: GatedAttentionUnit, x_q: torch.Tensor, x_kv: torch.Tensor) -> torch.Tensor:
    q, k, v = (F.silu(x @ w.weight.T) for x, w in ((x_q, unit.query), (x_kv, unit.key), (x_kv, unit.value)))
    u = torch.sigmoid(x_q @ unit.gate.weight.T)
    attention = torch.softmax(q @ k.T / math.sqrt(k.shape[1]), dim=1)
    return (u * (attention @ v)) @ unit.output.weight.T


def test_cross_attention_follows_equations_5_and_6() -> None:
    torch.manual_seed(1)
    network = GatedCrossAttentionNetwork(6, 5).double()
    users, items = torch.randn(2, 4, 6).double() * 3, torch.randn(2, 7, 3, 6).double() * 3
    attended_users, attended_items = network(network.project_users(users), network.project_items(items))
    assert attended_users.shape == (2, 7, 4, 6)
    assert attended_items.shape == (2, 7, 3, 6)
    for b in range(2):
        for j in range(7):
            e_u, e_i = users[b], items[b, j]
            torch.testing.assert_close(
                attended_users[b, j], network.user_norm(e_u + reference_gau(network.user_branch, e_u, e_i))
            )
            torch.testing.assert_close(
                attended_items[b, j], network.item_norm(e_i + reference_gau(network.item_branch, e_i, e_u))
            )


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(2)
    network = GatedCrossAttentionNetwork(4, 3).double()

    def both(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        attended = network(network.project_users(users), network.project_items(items))
        return torch.cat([part.flatten() for part in attended])

    users = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    items = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(both, (users, items))
