#!/usr/bin/env bash
# fuzz.sh [TIME]: every fuzz target there is, for TIME each (10s, 5m, 1h; 10s if left
# out), as many at once as there are processors, each with one worker. What is found
# new goes to Go's cache; an input that fails goes to the package's testdata/fuzz, to be
# committed with what mends it.
. "$(dirname "$0")/lib.sh"

time=${1:-10s}
case $time in
*s) seconds=${time%s} ;;
*m) seconds=$((${time%m} * 60)) ;;
*h) seconds=$((${time%h} * 3600)) ;;
*) echo "$time: want a time like 10s, 5m or 1h"; exit 2 ;;
esac
# After its time a target may still make a failing input smaller, for a minute.
hung=$((seconds + 120))

case $(go env GOARCH) in
amd64 | arm64) ;;
*) skip "fuzzing: on $(go env GOARCH) Go does not see which code an input reaches"; exit 0 ;;
esac

logs=tmp/fuzz
rm -rf "$logs"
mkdir -p "$logs"

# name DIR: a file name for a package.
name() { printf '%s' "${1#./}" | tr / -; }

# A binary for each package, and not for each target: linking takes as long as fuzzing.
# Only code of ours tells the fuzzer what an input reaches, which is what go test -fuzz
# has all code do: to build the libraries anew for that takes five times as long.
build() {
  local dir
  fuzz_targets | cut -d' ' -f1 | uniq | while read -r dir; do
    go test -c -gcflags "$(go list -m)/...=-d=libfuzzer" -ldflags '-s -w' -o "$logs/$(name "$dir").test" "$dir" </dev/null
  done
}

# What the fuzzer's workers print is lost, also why one has died: Go starts them by the
# name that it was started by itself, so that name is of a script that keeps it.
cat >"$logs/worker" <<'END'
#!/usr/bin/env bash
exec "$FUZZ_TEST" "$@" >>"$FUZZ_SAID" 2>&1
END
chmod +x "$logs/worker"

# one DIR TARGET: fuzzes one target and tells what came of it. Inputs that reach something
# new are made small first, by default for a minute each; where an engine works beside the
# test, much looks new and nothing else would be tried.
one() {
  local dir=$1 target=$2 top=$PWD code=0
  local log="$logs/$(name "$dir")-$target.log" cache
  local said="$log.worker"
  cache=$(go env GOCACHE)/fuzz/$(go list "$dir")
  export FUZZ_TEST="$top/$logs/$(name "$dir").test" FUZZ_SAID="$top/$said"
  (cd "$dir" && exec timeout -k 10 "$hung" bash -c 'exec -a "$0" "$FUZZ_TEST" "$@"' "$top/$logs/worker" -test.run '^$' -test.fuzz "^$target\$" \
    -test.fuzztime "$time" -test.fuzzminimizetime 1000x -test.parallel 1 -test.fuzzcachedir "$cache") </dev/null >"$top/$log" 2>&1 || code=$?
  if grep -q 'not built with coverage' "$log"; then
    echo "$dir $target: this Go does not take -d=libfuzzer" | tee -a "$logs/failed"
  elif [ "$code" = 0 ]; then
    printf 'ok    %-18s %-26s %s\n' "$dir" "$target" "$(inputs "$log")"
  elif only_late "$log"; then
    printf 'ok    %-18s %-26s %s, ended late (go.dev/issue/75804)\n' "$dir" "$target" "$(inputs "$log")"
  else
    echo "$dir $target" >>"$logs/failed"
    printf 'FAIL  %s %s (exit code %d)\n' "$dir" "$target" "$code"
    tail -n 40 "$log" | sed -e 's/^/      /' -e "s|written to testdata|written to $dir/testdata|"
    [ ! -s "$said" ] || { echo "      the worker said:"; head -n 40 "$said" | sed 's/^/      /'; }
  fi
}

# inputs LOG: how many inputs were tried.
inputs() { sed -n 's/^fuzz: elapsed:.* execs: \([0-9]*\) .*/\1 inputs/p' "$1" | tail -n 1; }

# only_late LOG: whether nothing was found, but the fuzzer of Go before 1.27 took the end
# of its time for a failure.
only_late() {
  [ "$(sed -n '/^--- FAIL/,$p' "$1" | grep -v -e '^--- FAIL' -e '^FAIL$')" = "    context deadline exceeded" ]
}

say "build"
build
at_once=$(getconf _NPROCESSORS_ONLN)
say "fuzz, $time each, $at_once at once"
running=0
while read -r dir target; do
  if [ "$running" -ge "$at_once" ]; then
    wait -n || true
    running=$((running - 1))
  fi
  one "$dir" "$target" &
  running=$((running + 1))
done < <(fuzz_targets)
wait
rm -f "$logs"/*.test
[ ! -e "$logs/failed" ] || { say "fuzzing found"; cat "$logs/failed"; exit 1; }
