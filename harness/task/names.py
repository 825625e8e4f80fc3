"""What people call the fields of a task elsewhere: in papers, in PyTorch, Keras, JAX and Flux."""

from __future__ import annotations

from collections.abc import Mapping

_OF_FIELDS = {
    "rho": "phi ar ar1 ar_coef ar_coefficient autocorrelation",
    "lag_weight": "w omega lag_coef coefficient",
    "lag": "delay lookback look_back lags memory order",
    "train_sign": "sign",
    "n_steps": "T time_steps seq_len seq_length sequence_length path_length length horizon",
    "batch_size": "B batch bs minibatch mini_batch_size n_batch n_paths",
    "epochs": "E n_epochs num_epochs nb_epoch max_epochs iterations iters n_iter num_iterations"
    " max_steps training_steps",
    "cell": "cell_type rnn_type model model_type architecture arch network",
    "activation": "act activation_fn nonlinearity",
    "layers": "L depth n_layers num_layers",
    "hidden": "H units n_units num_units hidden_size hidden_dim hidden_units n_hidden num_hidden"
    " state_size width neurons",
    "learning_rate": "lr eta alpha step_size",
    "optimiser": "opt optim optimizer solver",
    "gradient": "grad backprop bptt backward",
    "dtype": "float_type floatx data_type",
    "eval_paths": "n_eval eval_size test_paths test_size n_test held_out validation_size",
    "curve_points": "points n_points evaluations n_evals",
}
_ADAM = "Adam's betas are always 0.9 and 0.999, its eps is 1e-8"
_OF_THE_RUN = (
    *("backends", "devices", "precision", "rounds", "seeds", "sweep", "threads", "vectorize"),
)

OTHER_NAMES: Mapping[str, str] = {
    **{other: field for field, others in _OF_FIELDS.items() for other in others.split()},
    **dict.fromkeys(
        ("steps", "num_steps"),
        "`n_steps` are the time steps of a path, `epochs` the steps of the optimiser",
    ),
    **dict.fromkeys(
        ("loss", "loss_fn", "criterion", "objective", "metric"),
        "the loss is always the mean squared error",
    ),
    **dict.fromkeys(("betas", "beta1", "beta2", "b1", "b2", "eps", "epsilon"), _ADAM),
    **dict.fromkeys(
        ("momentum", "weight_decay", "l2"), "`optimiser` is adam or sgd, without such a term"
    ),
    **{
        name: f"it belongs to the run and not to the task: `--{name}`, or `harness.run({name}=...)`"
        for name in _OF_THE_RUN
    },
    **dict.fromkeys(
        ("seed", "random_seed", "rng", "random_state", "n_seeds"),
        "seeds belong to the run and not to the task: `--seeds`, or `harness.run(seeds=...)`",
    ),
}
"""A name from elsewhere: the field that it means, or words on what it means here."""
