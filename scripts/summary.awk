# Shortens the output of `go test -v`: of a package that passed its result, what it
# skipped, and the lines of figures that tests log; of one that failed all but subtests
# that passed.
{ lines[++n] = $0 }

/^ *--- SKIP: / {
  reason = lines[n - 1]
  sub(/^ *[^ ]+:[0-9]+: /, "", reason)
  skipped[++skips] = $3 ": " reason
}

# What a test logs is indented by four for each level of subtests. Tables are figures too.
/^ +[a-z_]+_test\.go:[0-9]+: .*(median|operations|faults|seeds? in)/ || /^ +\| .* \|$/ { figures[++noted] = $0 }

/^(ok|FAIL|\?)[ \t]+[a-z].*\// || /^FAIL$/ {
  if ($1 == "FAIL") {
    for (i = 1; i <= n; i++) if (lines[i] !~ /^ *=== |^ +--- PASS: /) print lines[i]
  } else if ($1 == "ok") {
    print
    for (i = 1; i <= noted; i++) print figures[i]
    for (i = 1; i <= skips; i++) print "SKIP " skipped[i]
  }
  n = 0; skips = 0; noted = 0
  fflush()
}

# What is left belongs to no package: a build that failed, or the tests' end by force.
END { for (i = 1; i <= n; i++) print lines[i] }
