from __future__ import annotations

import copy

import torch
from torch import nn

from mvp_deploy.pruning.head import solve_head
from mvp_deploy.pruning.outputs import other_order


def test_outputs_in_another_order_are_found_by_what_they_answer_to(cnn) -> None:
    model = cnn.original.copy()
    solve_head(model, cnn.original.classifier, cnn.train)
    assert other_order(model, cnn.train) is None
    shuffled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in shuffled.fc.parameters():
            parameter.copy_(parameter[[1, 2, 0]].clone())
    assert other_order(shuffled, cnn.train) == (2, 0, 1)  # class 0's row is now the third


def test_a_model_that_cannot_tell_the_classes_says_nothing_of_their_order(cnn) -> None:
    model = cnn.original.copy()
    nn.init.zeros_(model.fc.weight)
    nn.init.constant_(model.fc.bias, 0.0)
    assert other_order(model, cnn.train) is None
