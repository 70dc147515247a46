package history

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quorate-db/quorate/kv"
)

// Report sums up a history that was checked.
type Report struct {
	Ops     int
	Keys    int
	Unknown int
	Took    time.Duration
}

// String gives the report in one line.
func (r Report) String() string {
	return fmt.Sprintf("%d operations on %d keys, %d of unknown outcome, checked in %s", r.Ops, r.Keys, r.Unknown, r.Took.Round(time.Millisecond))
}

// violationOps bounds how much of a key's history goes into an error.
const violationOps = 60

// Check decides whether the history is linearizable key by key and whether its
// versions agree with it. It gives up after the timeout, which is an error too: what
// was not checked does not count as passed.
func Check(ops []Op, timeout time.Duration) (Report, error) {
	begin := time.Now()
	report := Report{Ops: len(ops)}
	byKey := map[string][]Op{}
	for _, op := range ops {
		byKey[op.Key] = append(byKey[op.Key], op)
		if op.Result == Unknown {
			report.Unknown++
		}
	}
	report.Keys = len(byKey)
	var errs []error
	for key, part := range byKey {
		slices.SortFunc(part, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
		left := timeout - time.Since(begin)
		if left <= 0 {
			errs = append(errs, fmt.Errorf("the check did not end within %s", timeout))
			break
		}
		if err := checkVersions(part); err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w\n%s", key, err, describe(part)))
		}
		switch porcupine.CheckOperationsTimeout(model, operations(part), left) {
		case porcupine.Illegal:
			errs = append(errs, fmt.Errorf("key %q: not linearizable:\n%s", key, describe(part)))
		case porcupine.Unknown:
			errs = append(errs, fmt.Errorf("key %q: not decided within %s (%d operations)", key, timeout, len(part)))
		}
		if len(errs) >= 3 {
			break
		}
	}
	report.Took = time.Since(begin)
	return report, errors.Join(errs...)
}

// model is one register that holds a string, "" = there is no key.
var model = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) { return step(state.(string), input.(Op)) },
	DescribeOperation: func(input, _ any) string {
		op := input.(Op)
		return op.String()
	},
}

func operations(ops []Op) []porcupine.Operation {
	out := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		end := op.Return
		if op.Result == Unknown {
			end = math.MaxInt64
		}
		out[i] = porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: end}
	}
	return out
}

// step applies op to a register and reports whether its answer fits.
func step(state string, op Op) (bool, string) {
	if op.Result == Unknown {
		return true, effect(state, op)
	}
	switch op.Kind {
	case Get:
		return op.Seen == state, state
	case Put:
		return true, op.Value
	case Delete:
		return (op.Seen == "1") == (state != ""), ""
	case Swap:
		if op.Result == Refused {
			return state != op.Expect, state
		}
		return state == op.Expect, op.Value
	case Add:
		next := effect(state, op)
		return op.Seen == next, next
	default:
		return false, state
	}
}

// effect gives the register after op if op is applied.
func effect(state string, op Op) string {
	switch op.Kind {
	case Put:
		return op.Value
	case Delete:
		return ""
	case Swap:
		if state == op.Expect {
			return op.Value
		}
	case Add:
		n, err := strconv.ParseInt(cmp.Or(state, "0"), 10, 64)
		if err != nil {
			return "no number: " + state
		}
		return strconv.FormatInt(n+1, 10)
	}
	return state
}

// checkVersions holds the versions of one key, whose operations are ordered by
// their call, to two rules: a version names one value, and a write that began after
// another had returned has a larger version.
func checkVersions(ops []Op) error {
	values := map[kv.Version]string{}
	type write struct {
		end     int64
		version kv.Version
	}
	var writes []write
	for _, op := range ops {
		if op.Version == 0 || op.Result != OK || op.Kind == Delete {
			continue
		}
		value := op.Value
		if op.Kind == Get || op.Kind == Add {
			value = op.Seen
		}
		if before, ok := values[op.Version]; ok && before != value {
			return fmt.Errorf("version %s is of %q and of %q", op.Version, before, value)
		}
		values[op.Version] = value
		if op.Kind == Get {
			continue
		}
		for _, w := range writes {
			if w.end < op.Call && w.version >= op.Version {
				return fmt.Errorf("%s got a version not above %s, which an earlier write had returned", op.String(), w.version)
			}
		}
		writes = append(writes, write{op.Return, op.Version})
	}
	return nil
}

// String gives the operation in one line.
func (op *Op) String() string {
	var what string
	switch op.Kind {
	case Get:
		what = fmt.Sprintf("get → %q", op.Seen)
	case Put:
		what = fmt.Sprintf("put %q", op.Value)
	case Delete:
		what = "delete → " + op.Seen
	case Swap:
		what = fmt.Sprintf("swap %q for %q", op.Expect, op.Value)
	case Add:
		what = "add 1 → " + op.Seen
	}
	switch op.Result {
	case Refused:
		what += " refused"
	case Unknown:
		what += " outcome unknown"
	}
	return fmt.Sprintf("client %d %s", op.Client, what)
}

func describe(ops []Op) string {
	var b strings.Builder
	first := max(0, len(ops)-violationOps)
	if first > 0 {
		fmt.Fprintf(&b, "  (%d earlier ones)\n", first)
	}
	for i := first; i < len(ops); i++ {
		op := &ops[i]
		fmt.Fprintf(&b, "  %12.6f to %12.6f  %s  version %s\n", float64(op.Call)/1e9, float64(op.Return)/1e9, op, op.Version)
	}
	return b.String()
}
