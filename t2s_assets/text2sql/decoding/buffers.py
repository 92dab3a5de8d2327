"""Keys and values of the rows that are being decoded, one slot a row, in buffers allocated once."""

from __future__ import annotations

import torch

from t2s_assets.text2sql.decoding.steps import Step


class Buffers:
    """Keys and values of `slots` rows of up to `capacity` tokens, allocated when the first layer writes."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots = slots
        self.capacity = capacity
        self.buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def store(
        self, step: Step, layer: int, key_states: torch.Tensor, value_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a step's keys and values, (tokens, heads, size); returns the layer's whole buffers."""
        while len(self.buffers) <= layer:
            shape = (self.slots, key_states.shape[1], self.capacity)
            self.buffers.append(
                (
                    key_states.new_zeros(*shape, key_states.shape[2]),
                    value_states.new_zeros(*shape, value_states.shape[2]),
                )
            )
        keys, values = self.buffers[layer]
        if step.only is not None:
            slot, where = step.only.slot, slice(step.only.start, step.only.start + step.only.count)
            keys[slot, :, where] = key_states.transpose(0, 1)
            values[slot, :, where] = value_states.transpose(0, 1)
        else:
            keys[step.slots, :, step.positions] = key_states
            values[step.slots, :, step.positions] = value_states
        return keys, values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for buffers in self.buffers:
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def read(self, slot: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A copy of a slot's first `length` positions, a (heads, length, size) pair for each layer."""
        return [(k[slot, :, :length].clone(), v[slot, :, :length].clone()) for k, v in self.buffers]

    def write(self, slot: int, states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put what `read` gave at the start of a slot."""
        if not self.buffers:
            for keys, values in states:
                shape = (self.slots, keys.shape[0], self.capacity)
                self.buffers.append((keys.new_zeros(*shape, keys.shape[2]), values.new_zeros(*shape, values.shape[2])))
        for buffers, pair in zip(self.buffers, states, strict=True):
            for buffer, state in zip(buffers, pair, strict=True):
                buffer[slot, :, : state.shape[1]] = state
