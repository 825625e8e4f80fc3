#!/usr/bin/env bash
# Makes a host a node: makes the token private, installs the project with constraints.txt, puts `ray`
# on the PATH. `ray up` copies the project to ~/harness-node and runs this on every node. It is fast if
# nothing has changed.
set -euo pipefail
umask 077
cd ~/harness-node
PATH=${PATH//"$HOME/harness-node/.venv/bin:"/}  # Find the Python of the host, not that of an earlier run.

fail() {
  echo "setup_node.sh on $(hostname): $1" >&2
  exit 1
}

token=~/.ray/auth_token
[ -s "$token" ] || fail "$token is missing or empty. Make one where you run \`ray up\`:
  (umask 077; ray get-auth-token --generate > /dev/null)"
mode=$(stat -c %a "$token")
chmod 700 ~/.ray
chmod 600 "$token"
[ "$mode" = 600 ] || echo "The token came with mode $mode, now 600. Where you ran \`ray up\`: chmod 600 $token"

if ! grep -qs harness-node/deploy/env.sh ~/.bashrc; then
  echo '[ ! -f ~/harness-node/deploy/env.sh ] || . ~/harness-node/deploy/env.sh' >> ~/.bashrc
fi

# All nodes need the same minor version. If this finds another, set HARNESS_PYTHON in ~/.bashrc.
python=${HARNESS_PYTHON:-}
for name in python3.11 python3.12 python3.13 python3; do
  python=${python:-$(command -v "$name" || true)}
done
[ -n "$python" ] || fail "there is no Python; install python3.11 and python3.11-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$python is $("$python" -V 2>&1), but 3.11 or newer is needed"

what=.
index=()
if nvidia-smi -L > /dev/null 2>&1; then
  what='.[gpu]'
elif [[ $("$python" -m pip config list) != *index* ]]; then
  # No GPU: avoid gigabytes of CUDA. A node with a package index of its own keeps using that.
  index=(--extra-index-url https://download.pytorch.org/whl/cpu)
fi
# Installed in place, so changes to the code need no installation.
wanted=$("$python" -V; echo "$what"; cat pyproject.toml constraints.txt)
if [ "$wanted" != "$(cat .venv/installed 2> /dev/null)" ]; then
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet "${index[@]}" -c constraints.txt -e "$what"
  echo "$wanted" > .venv/installed
fi
