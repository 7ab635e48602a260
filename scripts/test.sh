#!/usr/bin/env bash
# All tests, on any machine with Rust, Python 3 and make. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The tests start servers and brokers of their own: both binaries have to be there first.
nats_server="$(python3 scripts/nats_server.py)"
export TOLLGATE_NATS_SERVER="${nats_server##*$'\n'}"
cargo build --bin tollgate

exec cargo test --workspace "$@"
