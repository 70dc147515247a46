#!/usr/bin/env bash
# The long campaigns. They take hours; the variables below say how many.
#
#   QUORATE_SOAK       factor of what the tests repeat (kills, pauses, random crashes): 25
#   QUORATE_SIM_SEEDS  runs of the simulator, QUORATE_SIM_OPS operations each: 100, 21000
#   QUORATE_SIM_FIRST  the first seed: taken from the clock, so that no two soaks are the same
#   FUZZ_TIME          for each fuzz target: 5m
#   QUORATE_SCALE_MIB  how much data the test at scale loads, if the disk has room: 2048
#   SOAK_ROUNDS        how often all of it: 1
. "$(dirname "$0")/lib.sh"

: "${QUORATE_SOAK:=25}" "${QUORATE_SIM_SEEDS:=100}" "${QUORATE_SIM_OPS:=21000}" "${QUORATE_SIM_FIRST:=$(date +%s)}"
: "${FUZZ_TIME:=5m}" "${SOAK_ROUNDS:=1}" "${QUORATE_SCALE_MIB:=2048}"
export QUORATE_SCALE_MIB QUORATE_SOAK QUORATE_SIM_SEEDS QUORATE_SIM_OPS QUORATE_SIM_FIRST

failed=()
try() {
  say "$1"
  shift
  "$@" </dev/null || failed+=("$*")
}

for round in $(seq "$SOAK_ROUNDS"); do
  say "round $round of $SOAK_ROUNDS, first seed $QUORATE_SIM_FIRST"
  # Each run takes seconds; one that hangs must not take the night.
  try "simulator" go_test -count=1 -timeout $((5 + 2 * QUORATE_SIM_SEEDS))m -run TestCampaign ./internal/sim/...
  try "storage crashes" go_test -count=1 -timeout 0 ./raftnode/... ./store/...
  try "access against its oracle" go_test -count=1 -timeout 0 -run "Oracle|NoDifference" ./internal/access ./httpd
  try "real processes" go_test -count=1 -p 1 -timeout 0 -tags blackbox ./test/blackbox/...
  try "scale" go_test -count=1 -timeout 0 -tags blackbox ./test/scale/...
  try "hostile load" go_test -count=1 -timeout 0 -tags blackbox ./test/hostile/...
  try "fuzz" ./scripts/fuzz.sh "$FUZZ_TIME"
  QUORATE_SIM_FIRST=$((QUORATE_SIM_FIRST + QUORATE_SIM_SEEDS))
done
[ ${#failed[@]} = 0 ] || { say "failed"; printf '%s\n' "${failed[@]}"; exit 1; }
say "all passed"
