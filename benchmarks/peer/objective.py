"""The anchor: the AR(1) squared-lag task as a benchopt benchmark, for a side-by-side of whole-job wall time."""

import numpy as np
from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "AR(1) squared lag"
    min_benchopt_version = "1.6"
    sampling_strategy = "callback"

    def set_data(self, train, evaluation, lag_weight):
        self.train, self.evaluation, self.lag_weight = train, evaluation, lag_weight

    def get_objective(self):
        return dict(train=self.train, lag_weight=self.lag_weight)

    def evaluate_result(self, predict):
        x = self.evaluation
        y = x[1:] ** 2 + self.lag_weight * x[:-1] ** 2
        return dict(value=float(np.mean((predict(x)[1:] - y) ** 2)))

    def get_one_result(self):
        return dict(predict=lambda x: np.zeros_like(x))
