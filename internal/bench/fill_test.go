package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// shelf is a database that keeps values, on virtual time.
type shelf struct {
	mu     sync.Mutex
	values map[string][]byte
	puts   int
	fail   func(n int) error // of the n-th put
}

func (s *shelf) Name() string                             { return "shelf" }
func (s *shelf) Outcome(error) string                     { return "unknown" }
func (s *shelf) Session(context.Context) (Session, error) { return s, nil }
func (s *shelf) Close() error                             { return nil }

func (s *shelf) Put(_ context.Context, key string, value []byte) error {
	time.Sleep(time.Millisecond) // virtual
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.fail != nil {
		if err := s.fail(s.puts); err != nil {
			return err
		}
	}
	s.values[key] = value
	return nil
}

func (s *shelf) Value(_ context.Context, key string) ([]byte, bool, error) {
	time.Sleep(time.Millisecond) // virtual
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	return v, ok, nil
}

func (s *shelf) Get(context.Context, string, bool) (bool, error) {
	return false, errors.New("not asked for")
}
func (s *shelf) Scan(context.Context, string, int) (int, error) {
	return 0, errors.New("not asked for")
}
func newShelf() *shelf { return &shelf{values: map[string][]byte{}} }
func fillConfig() FillConfig {
	return FillConfig{Clients: 4, ValueBytes: 1001, Seed: 3, KeyPrefix: "p/"}
}

func TestFillAndVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cfg := newShelf(), fillConfig()
		cfg.Keys = cfg.KeysOf(100 << 10)
		if cfg.Keys != 101 { // 102,400 bytes of 1,014 each
			t.Fatalf("%d keys", cfg.Keys)
		}
		var p Progress
		r, err := Fill(t.Context(), s, cfg, &p)
		if err != nil || r.Ops != 101 || r.Next != 101 || r.Bytes != 101*1014 || len(s.values) != 101 || p.Done() != 101 || r.BytesPerSecond < 1e6 {
			t.Fatalf("%+v, %v", r, err)
		}
		seen := map[string]bool{}
		for key, v := range s.values {
			if len(v) != 1001 || seen[string(v)] || len(key) != 13 {
				t.Errorf("key %q: %d bytes, known %t", key, len(v), seen[string(v)])
			}
			seen[string(v)] = true
		}
		r, err = Verify(t.Context(), s, cfg, &p)
		if err != nil || r.Ops != 101 || r.Wrong != 0 || r.Missed != 0 || r.Next != 101 || r.Bytes != 101*1014 || s.puts != 101 {
			t.Errorf("%+v, %v", r, err)
		}
		// Faults of each kind are found, and counted.
		delete(s.values, keyOf("p/", 7))
		s.values[keyOf("p/", 8)] = s.values[keyOf("p/", 9)]
		s.values[keyOf("p/", 10)][1000] ^= 1
		s.values[keyOf("p/", 11)] = s.values[keyOf("p/", 11)][:1000]
		r, err = Verify(t.Context(), s, cfg, &p)
		slices.Sort(r.BadKeys)
		want := []string{keyOf("p/", 7), keyOf("p/", 8), keyOf("p/", 10), keyOf("p/", 11)}
		slices.Sort(want)
		if err != nil || r.Wrong != 3 || r.Missed != 1 || !slices.Equal(r.BadKeys, want) || r.Bytes != 97*1014 {
			t.Errorf("%+v, %v", r, err)
		}
		cfg.Seed++
		if r, err := Verify(t.Context(), s, cfg, &p); err != nil || r.Wrong != 100 || len(r.BadKeys) != badKeysMax {
			t.Errorf("another seed: %+v, %v", r, err)
		}
	})
}

// TestFillGoesOn: what was broken off says where to go on, and all keys below are
// written.
func TestFillGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cfg := newShelf(), fillConfig()
		cfg.Keys = 500
		s.fail = func(n int) error {
			if n%10 == 0 || n > 200 {
				return errors.New("now and then")
			}
			return nil
		}
		var p Progress
		r, err := Fill(t.Context(), s, cfg, &p)
		if err == nil || r.Next == 0 || r.Next >= 500 || r.Failed == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		for i := range r.Next {
			if s.values[keyOf("p/", i)] == nil {
				t.Errorf("key %d of %d is not written", i, r.Next)
			}
		}
		s.fail = nil
		cfg.From = r.Next
		if r, err := Fill(t.Context(), s, cfg, &p); err != nil || r.From != cfg.From || r.Next != 500 || uint64(r.Ops) != 500-cfg.From {
			t.Errorf("%+v, %v", r, err)
		}
		cfg.From = 0
		if r, err := Verify(t.Context(), s, cfg, &p); err != nil || r.Wrong+r.Missed != 0 || r.Ops != 500 {
			t.Errorf("%+v, %v", r, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if r, err := Verify(ctx, s, cfg, &p); !errors.Is(err, context.DeadlineExceeded) || r.Next == 0 || r.Next == 500 {
			t.Errorf("interrupted: %+v, %v", r, err)
		}
		cfg.From = 500
		if _, err := Fill(t.Context(), s, cfg, &p); err == nil {
			t.Error("from beyond the end")
		}
		if _, err := Verify(t.Context(), newFake(constant(0)), fillConfigOf(10), &p); err == nil {
			t.Error("a driver that cannot read values")
		}
	})
}

func fillConfigOf(keys uint64) FillConfig {
	c := fillConfig()
	c.Keys = keys
	return c
}
