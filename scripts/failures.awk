# Repeats of the output of steps what says why one failed: of each failed test its
# last lines, but for the nodes' logs, and its result, panics and data races, and what
# could not be built. It is for the end of the whole output, which is what one sees first, and where programs that
# shorten it do not cut.
function flush_tail(   i) {
  for (i = (kept > 12 ? kept - 11 : 1); i <= kept; i++) print tail[i]
}

FNR == 1 { kept = 0 }

/^ *--- FAIL: / { flush_tail(); print; kept = 0; next }
/^ *--- (PASS|SKIP): / { kept = 0; next }
/^(panic: |fatal error: |WARNING: DATA RACE)/ { trace = 25 }
/\[(build|setup) failed\]|^[^ ]+\.go:[0-9]+:[0-9]+: / { print; next }
trace > 0 { print; trace--; next }
/^ +(time=|\{"time":)/ { next } # of a node, not of the test
/^    / { tail[++kept] = $0; next }
