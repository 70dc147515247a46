package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/store/engine"
)

// TestSplitKey: it is in the middle by bytes, as short as can be, and never the first.
func TestSplitKey(t *testing.T) {
	db := mustOpen(t, engine.NewMemFS())
	defer mustClose(t, db)
	r, l := mustReplica(t, db), newLog()
	mustApply(t, r, l.startTerm())
	find := func() string {
		key, ok, err := r.SplitKey(context.Background())
		if err != nil || ok == (key == nil) {
			t.Fatal(key, ok, err)
		}
		return string(key)
	}
	put1 := func(key string, size int) {
		mustApply(t, r, l.entry(write(then(put(key, string(make([]byte, size)))))))
	}
	if got := find(); got != "" {
		t.Fatal(got)
	}
	put1("car", 10)
	if got := find(); got != "" {
		t.Fatal("a single key was split:", got)
	}
	put1("cat", 1)
	if got := find(); got != "cat" {
		t.Fatal(got)
	}
	put1("b", 5000)
	if got := find(); got != "c" {
		t.Fatal(got)
	}
	put1("dog", 20_000)
	if got := find(); got != "d" {
		t.Fatal(got)
	}
	for i := 0; i < 3*stepsPerView; {
		txn := then()
		for range kv.OpsMax {
			txn.Then = append(txn.Then, put(fmt.Sprintf("m%06d", i), "123456789"))
			i++
		}
		mustApply(t, r, l.entry(write(txn)))
	}
	if got := find(); got < "m014" || got > "m016" {
		t.Fatal(got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := r.SplitKey(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestPreparedView: it is counted once, and let go by whatever ends the prepare.
func TestPreparedView(t *testing.T) {
	count := func(r *Replica) error { _, _, _, err := r.CountRight(context.Background()); return err }
	for name, end := range map[string]func(s *shaped){
		"counted": func(s *shaped) { _ = count(s.left) },
		"another": func(s *shaped) { s.ok(s.left, s.l, refuseKind, &kvpb.ShapeChange{}) },
		"waited long": func(s *shaped) {
			s.l.nowMs += viewKeptMs + 1
			mustApply(s.t, s.left, s.l.entry(write(then(put("c", "x")))))
		},
		"dropped": func(s *shaped) {
			if err := s.db.DropReplica(testShard); err != nil {
				s.t.Fatal(err)
			}
		},
		"given up": func(s *shaped) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, _, _, _ = s.left.CountRight(ctx)
		},
	} {
		s := newShaped(t)
		s.ok(s.left, s.l, prepareKind, &kvpb.ShapeChange{SplitKey: []byte("m")})
		end(s)
		if err := count(s.left); kv.CodeOf(err) != kv.CodeConflict {
			t.Error(name, err)
		}
		if n := len(s.db.images.all); n != 0 {
			t.Errorf("%s: %d views are held", name, n)
		}
		mustClose(t, s.db)
	}
	s := newShaped(t)
	s.ok(s.left, s.l, prepareKind, &kvpb.ShapeChange{SplitKey: []byte("m")})
	mustClose(t, s.db)
	if err := count(s.left); err == nil {
		t.Error("counted in a closed database")
	}
}

// BenchmarkSplit splits shards of different sizes: it must not matter.
func BenchmarkSplit(b *testing.B) {
	for _, keys := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			b.StopTimer()
			for range b.N {
				s := newShaped(b)
				rng := rand.New(rand.NewPCG(1, 2))
				for n := 0; n < keys; {
					txn := then()
					for range kv.OpsMax {
						txn.Then = append(txn.Then, put(fmt.Sprintf("c%08d", rng.Uint32()), "some value of some bytes"))
						n++
					}
					mustApply(b, s.left, s.l.entry(write(txn)))
				}
				ch := s.prepare(childShard, "c5")
				e := shapeEntry(s.left, s.l, splitKind, ch)
				b.StartTimer()
				mustApply(b, s.left, e)
				b.StopTimer()
				mustClose(b, s.db)
			}
		})
	}
}
