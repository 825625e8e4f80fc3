# The environment of every Ray process and job of a node. ~/.bashrc sources it, so that `ray exec`,
# `ray attach` and `ray down` find the right `ray`. The start commands source it once more, because
# `ray up` puts exports of its own before them.
case ":$PATH:" in
  *":$HOME/harness-node/.venv/bin:"*) ;;
  *) export PATH="$HOME/harness-node/.venv/bin:$PATH" ;;
esac

ulimit -S -n hard  # Ray opens more files and connections than an account may by default.

export RAY_AUTH_MODE=token          # Admit only those with the token; do not start without one.
export RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0        # Trials run at the priority they would have without Ray.
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0  # The harness itself hides GPUs from trials on the CPU.
# Nodes need the same minor version of Python, such as 3.11; the patch release may differ.
export RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor

# A silent node (power, cable) is given up after 3 * (3 + 5) = 24 s; with Ray's defaults it takes over
# a minute. A trial that uses every core delays an answer by far less than 5 s.
export RAY_health_check_period_ms=3000
export RAY_health_check_timeout_ms=5000
export RAY_health_check_failure_threshold=3
# Workers without a head stop by themselves. `ray down` relies on this.
export RAY_gcs_rpc_server_reconnect_timeout_s=30
