import torch

from unimixer.metrics import MetricAccumulator
from unimixer.training.evaluation import user_keys


def test_impressions_without_a_user_are_left_out_of_uauc_one_by_one() -> None:
    users = torch.tensor([0, 0, 5, 5, 0])  # row 0 of the user table is "no user"
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0]])
    logits = torch.tensor([[-9.0], [9.0], [1.0], [0.0], [0.0]])
    metrics = MetricAccumulator(("click",))
    for rows in (slice(0, 2), slice(2, 5)):
        metrics.update(logits[rows], labels[rows], user_keys(users[rows], metrics.num_rows))
    click = metrics.compute()["click"]
    assert click.uauc == 1.0  # user 5 alone, though the rows without a user are ranked the wrong way
    assert (click.users_counted, click.users_left_out) == (1, 3)
