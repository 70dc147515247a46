package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
)

// historyOf gives records their places in the order of calls and returns: each
// returns before the next is called, but those that overlap the one after them.
func historyOf(list ...record) []record {
	for i := range list {
		list[i].call, list[i].ret = int64(10*i+1), int64(10*i+5)
		list[i].called, list[i].returned = time.Duration(i)*time.Second, time.Duration(i)*time.Second
	}
	return list
}

func putOf(value string, before seen, version uint64) record {
	return record{
		request: request{changes: []change{{kind: kvpb.OpKind_OP_PUT, value: value}}},
		answer:  answer{version: version, last: version, cells: []seen{before}},
	}
}

func readOf(s seen, last uint64) record {
	return record{request: request{read: true, cells: []int{0}}, answer: answer{cells: []seen{s}, last: last}}
}

func addOf(client int, before seen, after int64, version uint64) record {
	r := record{client: client, request: request{changes: []change{{kind: kvpb.OpKind_OP_ADD, cell: counter, delta: 1 << (slotBits * client)}}}}
	before.number = after
	r.answer = answer{version: version, last: version, cells: []seen{before}}
	if version == 0 {
		r.answer = answer{outcome: unknown}
	}
	return r
}

// lostPut is a put of which nothing was heard.
func lostPut(value string) record {
	r := putOf(value, seen{}, 0)
	r.answer = answer{outcome: unknown}
	return r
}

func stale(bound time.Duration, r record) record {
	r.stale, r.bound = true, bound
	return r
}

func TestSightsFindWhatIsWrong(t *testing.T) {
	read := readOf(seen{found: true, value: "a", version: 5}, 5)
	turnedDown := putOf("a", seen{}, 0)
	turnedDown.answer = answer{outcome: refused}
	for _, tc := range []struct {
		name   string
		denied []record
		list   []record
		wrong  bool
	}{
		{"acknowledged", nil, historyOf(putOf("a", seen{}, 5), read), false},
		{"unknown", nil, historyOf(lostPut("a"), read), false},
		{"at another version", nil, historyOf(putOf("a", seen{}, 4), read), true},
		{"not applied", []record{lostPut("a")}, historyOf(read), true},
		{"refused", nil, historyOf(turnedDown, read), true},
	} {
		if wrong := checkSights(tc.denied, tc.list); (len(wrong) > 0) != tc.wrong {
			t.Errorf("%s: %v", tc.name, wrong)
		}
	}
}

func TestChecksFindWhatIsWrong(t *testing.T) {
	absent := seen{}
	at := func(value string, version uint64) seen { return seen{found: true, value: value, version: version} }
	for _, tc := range []struct {
		name string
		want string // the check that finds it, "" for none
		list []record
	}{
		{"in order", "", historyOf(putOf("a", absent, 5), readOf(at("a", 5), 5), putOf("b", at("a", 5), 7), readOf(at("b", 7), 9))},
		{"lost write", "C1", historyOf(putOf("a", absent, 5), readOf(absent, 6))},
		{"stale read", "C2", historyOf(putOf("a", absent, 5), putOf("b", at("a", 5), 7), readOf(at("a", 5), 5))},
		{"wrong version", "C1", historyOf(putOf("a", absent, 5), readOf(at("a", 4), 8))},
		{"versions go back", "C2", historyOf(putOf("a", absent, 5), putOf("b", at("a", 5), 4))},
		{"one version twice", "C2", historyOf(putOf("a", absent, 5), putOf("b", at("a", 5), 5))},
		{"unknown and applied", "", historyOf(putOf("a", absent, 5), lostPut("b"), readOf(at("b", 7), 7), readOf(at("b", 7), 7))},
		{"unknown and never applied", "", historyOf(putOf("a", absent, 5), lostPut("b"), readOf(at("a", 5), 7))},
		{"unknown, applied, undone", "C1", historyOf(putOf("a", absent, 5), lostPut("b"), readOf(at("b", 7), 7), readOf(at("a", 5), 8))},
		{"seen before it was asked", "C1", historyOf(readOf(at("b", 7), 7), lostPut("b"))},
		{"a guard holds at a version that nobody saw", "", historyOf(putOf("a", absent, 5), lostPut("b"), ifAt(7, onCell(1, putOf("c", absent, 8))))},
		{"a guard holds at a version that is gone", "C1", historyOf(putOf("a", absent, 5), putOf("b", at("a", 5), 7), ifAt(5, onCell(1, putOf("c", absent, 8))))},
		{"unknown addition counted", "", historyOf(addOf(0, absent, 1, 5), addOf(0, absent, 0, 0), addOf(0, at("2", 7), 3, 9))},
		{"addition twice", "C1", historyOf(addOf(0, absent, 1, 5), addOf(0, at("2", 7), 3, 9))},
		{"one unknown addition counted twice", "C1", historyOf(addOf(0, absent, 1, 5), addOf(0, absent, 0, 0), addOf(0, at("3", 7), 4, 9))},
		{"stale within its bound", "", historyOf(putOf("a", absent, 5), putOf("b", at("a", 5), 7), stale(5*time.Second, readOf(at("a", 5), 5)))},
		{"stale beyond its bound", "C6", historyOf(putOf("a", absent, 5), putOf("b", at("a", 5), 7), readOf(at("b", 7), 7), readOf(at("b", 7), 7), stale(time.Second, readOf(at("a", 5), 5)))},
		{"versions of cells that a split parted", "", historyOf(in(2, putOf("a", absent, 5)), in(3, onCell(1, putOf("b", absent, 4))), in(2, readOf(at("a", 5), 5)), in(3, onCell(1, readOf(at("b", 4), 4))))},
		{"a shard remembers what one did that it has absorbed", "", historyOf(in(2, putOf("a", absent, 5)), replay(in(2, onCell(1, putOf("b", absent, 4)))), in(2, readOf(at("a", 5), 5)))},
		{"versions go back where another shard takes over", "C1", historyOf(in(2, putOf("a", absent, 5)), in(3, putOf("b", at("a", 5), 4)))},
		{"stale beyond its bound in another shard", "C6", historyOf(in(2, putOf("a", absent, 5)), in(2, putOf("b", at("a", 5), 7)), in(3, readOf(at("b", 7), 7)), in(3, readOf(at("b", 7), 7)), in(3, stale(time.Second, readOf(at("a", 5), 5))))},
		{"stale, and nobody wrote it", "C6", historyOf(putOf("a", absent, 5), stale(0, readOf(at("x", 5), 5)))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := Config{Clients: slots}.withDefaults()
			r := &Result{Config: config, records: tc.list}
			wrong := append(checkVersions(r.records), r.checkStale()...)
			wrong = append(wrong, checkGroups(r.records, config)...)
			switch {
			case tc.want == "" && len(wrong) > 0:
				t.Errorf("nothing is wrong with it, but: %s", wrong[0])
			case tc.want != "" && !strings.Contains(strings.Join(wrong, "\n"), tc.want+":"):
				t.Errorf("%s finds nothing; found: %v", tc.want, wrong)
			}
		})
	}
}

// TestPartsOfARead: what was read of one state of a shard is one record, and what was
// read of a later one, when it had absorbed its neighbour, is another.
func TestPartsOfARead(t *testing.T) {
	reading := func(shard kv.ShardID, last kv.Version) kv.Reading {
		return kv.Reading{Served: kv.Served{Shard: shard, LastVersion: last}}
	}
	r := record{request: request{cells: []int{0, 1, 2, 3}}}
	got := new(client).parts(r, []kv.Reading{reading(3, 5), reading(3, 5), reading(3, 9), reading(4, 9)})
	want := [][]int{{0, 1}, {2}, {3}}
	if len(got) != len(want) {
		t.Fatalf("%d parts, want %d", len(got), len(want))
	}
	for i, part := range got {
		if !slices.Equal(part.request.cells, want[i]) {
			t.Errorf("part %d has cells %v, want %v", i, part.request.cells, want[i])
		}
	}
}

// in has a shard answer.
func in(owner kv.ShardID, r record) record {
	r.owner = owner
	return r
}

// replay has an answer come from what was remembered.
func replay(r record) record {
	r.replayed = true
	return r
}

// ifAt guards a request by the version of the first cell.
func ifAt(version uint64, r record) record {
	r.request.guards = []guard{{version: version}}
	return r
}

// onCell has a request be about another cell.
func onCell(cell int, r record) record {
	if r.request.read {
		r.request.cells = []int{cell}
		return r
	}
	r.request.changes = []change{{kind: r.request.changes[0].kind, cell: cell, value: r.request.changes[0].value}}
	return r
}
