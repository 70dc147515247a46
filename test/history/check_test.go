package history

import (
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// at gives an operation its time; its key is k.
func at(call, end int64, op Op) Op {
	op.Key, op.Call, op.Return = "k", call, end
	return op
}

// TestCheckDecides has, for each kind of violation that the check is there for, a
// history with it and one that differs by as little as possible without it.
func TestCheckDecides(t *testing.T) {
	put := func(value string) Op { return Op{Kind: Put, Value: value} }
	get := func(seen string) Op { return Op{Kind: Get, Seen: seen} }
	swap := func(expect, value string) Op { return Op{Kind: Swap, Expect: expect, Value: value} }
	add := func(seen string) Op { return Op{Kind: Add, Seen: seen} }
	del := func(seen string) Op { return Op{Kind: Delete, Seen: seen} }
	unknown := func(op Op) Op { op.Result = Unknown; return op }
	refused := func(op Op) Op { op.Result = Refused; return op }
	version := func(op Op, v kv.Version) Op { op.Version = v; return op }
	tests := []struct {
		name string
		ops  []Op
		want string // part of the error; "" = fine
	}{
		{"read what was written", []Op{at(1, 2, put("a")), at(3, 4, get("a"))}, ""},
		{"acknowledged write lost", []Op{at(1, 2, put("a")), at(3, 4, get(""))}, "not linearizable"},
		{"stale read", []Op{at(1, 2, put("a")), at(3, 4, put("b")), at(5, 6, get("a"))}, "not linearizable"},
		{"read beside a write", []Op{at(1, 2, put("a")), at(3, 6, put("b")), at(4, 5, get("a"))}, ""},
		{"reads go back in time", []Op{at(1, 2, put("a")), at(3, 9, put("b")), at(4, 5, get("b")), at(6, 7, get("a"))}, "not linearizable"},
		{"a value nobody wrote", []Op{at(1, 2, put("a")), at(3, 4, get("x"))}, "not linearizable"},
		{"unknown write applied", []Op{at(1, 2, unknown(put("a"))), at(3, 4, get("a"))}, ""},
		{"unknown write not applied", []Op{at(1, 2, unknown(put("a"))), at(3, 4, get(""))}, ""},
		{"unknown write applied late", []Op{at(1, 2, unknown(put("a"))), at(3, 4, get("")), at(5, 6, get("a"))}, ""},
		{"unknown write applied twice", []Op{at(1, 2, unknown(put("a"))), at(3, 4, get("a")), at(5, 6, put("b")), at(7, 8, get("a"))}, "not linearizable"},
		{"swap", []Op{at(1, 2, put("a")), at(3, 4, swap("a", "b")), at(5, 6, get("b"))}, ""},
		{"two swaps of one value", []Op{at(1, 2, put("a")), at(3, 6, swap("a", "b")), at(4, 5, swap("a", "c"))}, "not linearizable"},
		{"swap refused with reason", []Op{at(1, 2, put("a")), at(3, 4, refused(swap("", "b")))}, ""},
		{"swap refused without reason", []Op{at(1, 2, put("a")), at(3, 4, refused(swap("a", "b")))}, "not linearizable"},
		{"unknown swap", []Op{at(1, 2, put("a")), at(3, 4, unknown(swap("a", "b"))), at(5, 6, put("c")), at(7, 8, get("c"))}, ""},
		{"counter", []Op{at(1, 2, add("1")), at(3, 4, add("2")), at(5, 6, get("2"))}, ""},
		{"counter counted twice", []Op{at(1, 2, add("1")), at(3, 4, add("3"))}, "not linearizable"},
		{"unknown addition counted", []Op{at(1, 2, unknown(add(""))), at(3, 4, add("2"))}, ""},
		{"unknown addition counted twice", []Op{at(1, 2, unknown(add(""))), at(3, 4, add("3"))}, "not linearizable"},
		{"deleted once", []Op{at(1, 2, put("a")), at(3, 4, del("1")), at(5, 6, del("0")), at(7, 8, get(""))}, ""},
		{"deleted twice", []Op{at(1, 2, put("a")), at(3, 4, del("1")), at(5, 6, del("1"))}, "not linearizable"},
		{"versions grow", []Op{at(1, 2, version(put("a"), 5)), at(3, 4, version(put("b"), 6)), at(5, 6, version(get("b"), 6))}, ""},
		{"version goes back", []Op{at(1, 2, version(put("a"), 6)), at(3, 4, version(put("b"), 5))}, "not above"},
		{"versions of concurrent writes", []Op{at(1, 4, version(put("a"), 6)), at(2, 3, version(put("b"), 5))}, ""},
		{"version of two values", []Op{at(1, 4, version(put("a"), 5)), at(2, 3, version(put("b"), 5))}, "version 5 is of"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Check(test.ops, time.Minute)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("Check = %v, want nil", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("Check = %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestCheckWithoutTimeIsAnError(t *testing.T) {
	if _, err := Check([]Op{at(1, 2, Op{Kind: Put, Value: "a"})}, 0); err == nil {
		t.Fatal("Check without time to check in reported no error")
	}
}

func TestRecorderKeepsKeysThatWereWritten(t *testing.T) {
	r := NewRecorder()
	for _, op := range []Op{{Kind: Put, Key: "b"}, {Kind: Get, Key: "x"}, {Kind: Add, Key: "a"}, {Kind: Put, Key: "b"}} {
		r.Record(op)
	}
	if got := strings.Join(r.Keys(), " "); got != "b a" {
		t.Fatalf("Keys = %q, want %q", got, "b a")
	}
	if got := len(r.Ops()); got != 4 {
		t.Fatalf("%d operations, want 4", got)
	}
}
