# The environment of every Ray process and job of a node. `setup_node.sh` has ~/.bashrc source it,
# so that `ray exec`, `ray attach` and `ray down` find the right `ray`; the start commands source it
# once more, because `ray up` puts exports of its own in front of them.
case ":$PATH:" in
  *":$HOME/harness-node/.venv/bin:"*) ;;
  *) export PATH="$HOME/harness-node/.venv/bin:$PATH" ;;
esac

ulimit -S -n hard  # Ray opens more files and connections than an account may by default.

export RAY_AUTH_MODE=token          # Refuse whoever has no token, and refuse to start without one.
export RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=0        # Trials run at the priority they would have without Ray.
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0  # The harness itself hides GPUs from trials on the CPU.
# Nodes need the same Python, 3.11 or 3.12 say; hosts seldom have the same patch release of it.
export RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor

# A node that falls silent (power, cable) is given up after 3 * (3 + 5) = 24 s; Ray's own limits take
# over a minute. A trial that uses every core delays an answer by far less than the 5 s.
export RAY_health_check_period_ms=3000
export RAY_health_check_timeout_ms=5000
export RAY_health_check_failure_threshold=3
# Workers whose head is gone stop by themselves, which is how `ray down` reaches them.
export RAY_gcs_rpc_server_reconnect_timeout_s=30
