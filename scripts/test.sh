#!/usr/bin/env bash
# Every test there is, on a machine that may have nothing but Go and git. All steps
# run, whatever the ones before have found; what was skipped and what failed is
# said at the end. Arguments name the steps to run instead of all.
. "$(dirname "$0")/lib.sh"

logs=tmp/test
rm -rf "$logs"
mkdir -p "$logs"
results=$logs/results

deps() {
  command -v go >/dev/null || { echo "Go is missing: https://go.dev/dl"; return 1; }
  need_package gcc gcc || skip "what needs a C compiler: gcc is not installed, and could not be"
  need_package promtool prometheus || skip "what needs Prometheus: it is not installed, and could not be"
  go mod download
}

lint() { ./scripts/lint.sh; }

unit() { go_test ./...; }

race() { ./scripts/race.sh; }

# Faults that are planted in the code have to be found: a test that cannot fail
# proves nothing.
planted() {
  grep -qrs --include='*_test.go' 'func TestPlanted' internal/sim || { skip "planted faults: there are none"; return; }
  go_test -count=1 -tags planted -run TestPlanted ./internal/sim/...
}

fuzz() { ./scripts/fuzz.sh 10s; }

# One package at a time: each starts clusters of its own.
blackbox() { go_test -count=1 -p 1 -timeout 20m -tags blackbox ./test/...; }

docker() { go_test -count=1 -timeout 15m -tags docker ./test/docker/...; }

# step NAME: runs a step, keeps its output and its result.
step() {
  local begin=$SECONDS result=ok
  say "step $1"
  # A subshell of its own, in which -e holds: it does not in a condition.
  set +e
  (set -e; "$1") </dev/null 2>&1 | tee "$logs/$1"
  [ "${PIPESTATUS[0]}" = 0 ] || result=FAILED
  set -e
  printf '%-9s %-6s %4d s\n' "$1" "$result" $((SECONDS - begin)) >>"$results"
}

steps=("$@")
[ $# -gt 0 ] || steps=(deps lint unit race planted fuzz blackbox docker)
for name in "${steps[@]}"; do
  case $name in
  deps | lint | unit | race | planted | fuzz | blackbox | docker) step "$name" ;;
  *) echo "no step is called $name"; exit 2 ;;
  esac
done

say "skipped"
(cd "$logs" && grep '^SKIP ' "${steps[@]}") || echo "nothing"
if grep -q FAILED "$results"; then
  say "what failed"
  for name in $(awk '$2 == "FAILED" { print $1 }' "$results"); do
    why=$(awk -f scripts/failures.awk "$logs/$name" | tail -n 60)
    printf '%s\n' "${why:-$(tail -n 12 "$logs/$name")}"
  done
fi
say "results"
cat "$results"
printf '%-9s %-6s %4d s\n' all "" "$SECONDS"
! grep -q FAILED "$results"
