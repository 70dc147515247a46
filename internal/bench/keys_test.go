package bench

import (
	"bytes"
	"math"
	"sync"
	"testing"
)

func TestKeysAreDifferentAndSpread(t *testing.T) {
	const n = 200_000
	seen, first := make(map[string]bool, n), map[byte]int{}
	for i := range uint64(n) {
		key := keyOf("p/", i)
		if len(key) != len("p/")+keyLen || key[:2] != "p/" {
			t.Fatalf("key %q", key)
		}
		seen[key] = true
		first[key[2]]++
	}
	if len(seen) != n {
		t.Errorf("%d different keys of %d", len(seen), n)
	}
	for c, count := range first {
		if math.Abs(float64(count)-n/62) > 0.1*n/62 {
			t.Errorf("%d keys begin with %c, want about %d", count, c, n/62)
		}
	}
	if len(first) != 62 {
		t.Errorf("%d first characters", len(first))
	}
}

// TestKeyCounter: a key counts only when all before it were answered.
func TestKeyCounter(t *testing.T) {
	c := newKeyCounter(10)
	a, b, d := c.take(), c.take(), c.take()
	for _, step := range []struct{ answer, count uint64 }{{b, 10}, {d, 10}, {a, 13}} {
		if c.answered(step.answer); c.count() != step.count {
			t.Errorf("after %d: %d keys, want %d", step.answer, c.count(), step.count)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				c.answered(c.take())
			}
		})
	}
	wg.Wait()
	if c.count() != 8013 || len(c.ahead) != 0 {
		t.Errorf("%d keys, %d ahead", c.count(), len(c.ahead))
	}
}

func TestValues(t *testing.T) {
	v, r := newValues(100, 1), newRand(1)
	one, two := v.draw(r), v.draw(r)
	if len(one) != 100 || cap(one) != 100 || bytes.Equal(one, two) {
		t.Errorf("values %x and %x", one, two)
	}
	if len(newValues(0, 1).draw(r)) != 0 {
		t.Error("an empty value is not empty")
	}
}
