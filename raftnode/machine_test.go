package raftnode

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/quorate-db/quorate/kv"
)

// testDisk is what of a test machine survives a crash.
type testDisk struct {
	mu    sync.Mutex
	saved []byte // the state as of the last flush
}

// testState is the state of a test machine: values by key, and the order in which
// commands were applied, so that one that was applied twice or in another order
// shows.
type testState struct {
	Applied kv.Applied
	Values  map[string]string
	Count   int
	Order   uint64 // a hash over all commands in order
}

// testMachine understands "key=value" commands and answers "version:order". As a
// durable machine it saves itself on flush, and comes back as of then.
type testMachine struct {
	disk *testDisk // nil: in memory

	mu       sync.Mutex
	state    testState
	broken   error // what Apply answers from now on
	rejected int
	staging  int           // images that are being read, or are neither installed nor closed
	hold     chan struct{} // Apply waits for it if not nil
}

func newTestMachine(disk *testDisk) *testMachine {
	m := &testMachine{disk: disk, state: testState{Values: map[string]string{}}}
	if disk != nil {
		disk.mu.Lock()
		defer disk.mu.Unlock()
		if disk.saved != nil {
			if err := json.Unmarshal(disk.saved, &m.state); err != nil {
				panic(err)
			}
		}
	}
	return m
}

func (m *testMachine) Apply(entries []kv.Entry) ([]kv.EntryResult, error) {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		<-hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	results := make([]kv.EntryResult, len(entries))
	for i := range entries {
		if entries[i].Index > m.state.Applied.Index {
			results[i] = m.applyLocked(&entries[i])
		}
	}
	return results, nil
}

func (m *testMachine) applyLocked(e *kv.Entry) kv.EntryResult {
	a := &m.state.Applied
	a.Index, a.Term = e.Index, e.Term
	if e.Config != nil {
		a.Config, a.ConfigIndex = slices.Clone(e.Config), e.Index
		return kv.EntryResult{}
	}
	if e.Stale() {
		m.rejected++
		return kv.EntryResult{Rejected: true}
	}
	if len(e.Commands) == 0 {
		a.LastVersion = max(a.LastVersion, a.Ceiling)
		a.Ceiling = max(a.Ceiling+kv.VersionAt(1), e.Stamp.Ceiling)
		a.NowMs = max(a.NowMs, e.Stamp.NowMs)
		return kv.EntryResult{}
	}
	n := kv.Version(0)
	for _, c := range e.Commands {
		n += kv.Version(c.Versions)
	}
	// The strictest reading of the rule: the ceiling was applied before this entry.
	if e.Stamp.Version <= a.LastVersion || e.Stamp.Version+n-1 > a.Ceiling {
		m.rejected++
		return kv.EntryResult{Rejected: true}
	}
	a.Ceiling, a.NowMs = max(a.Ceiling, e.Stamp.Ceiling), max(a.NowMs, e.Stamp.NowMs)
	var out kv.EntryResult
	for i, c := range e.Commands {
		key, value, _ := strings.Cut(string(c.Data), "=")
		m.state.Values[key] = value
		m.state.Count++
		m.state.Order = m.state.Order*1099511628211 + uint64(len(key))<<32 + sum64(c.Data)
		out.Results = append(out.Results, fmt.Appendf(nil, "%d:%d", uint64(e.Stamp.Version)+uint64(i), m.state.Count))
	}
	a.LastVersion = e.Stamp.Version + n - 1
	return out
}

func sum64(data []byte) uint64 {
	h := castagnoli()
	_, _ = h.Write(data)
	return uint64(h.Sum32())
}

func (m *testMachine) Applied() kv.Applied {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Applied
}

func (m *testMachine) get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Values[key]
}

func (m *testMachine) digest() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.state.Applied
	return fmt.Sprintf("count %d order %x last %d ceiling %d now %d config %d", m.state.Count, m.state.Order,
		a.LastVersion, a.Ceiling, a.NowMs, a.ConfigIndex)
}

func (m *testMachine) encoded() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := json.Marshal(m.state)
	if err != nil {
		panic(err)
	}
	return data
}

func (m *testMachine) Flush() error {
	if m.disk == nil {
		return nil
	}
	data := m.encoded()
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.saved = data
	return nil
}

func (m *testMachine) Image() (Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := json.Marshal(m.state)
	return &testImage{applied: m.state.Applied, data: data}, err
}

// Stage reads a length, a state, and padding.
func (m *testMachine) Stage(r io.Reader) (_ Staged, err error) {
	s := &testStaged{m: m}
	m.countStaged(1)
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(all) < 8 || binary.LittleEndian.Uint64(all) > uint64(len(all)-8) {
		return nil, errors.New("short image")
	}
	if err := json.Unmarshal(all[8:8+binary.LittleEndian.Uint64(all)], &s.state); err != nil {
		return nil, err
	}
	return s, nil
}

func (m *testMachine) countStaged(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.staging += n
	return m.staging
}

type testStaged struct {
	m      *testMachine
	state  testState
	closed bool
}

func (s *testStaged) Applied() kv.Applied { return s.state.Applied }

func (s *testStaged) Close() error {
	if !s.closed {
		s.closed = true
		s.m.countStaged(-1)
	}
	return nil
}

func (s *testStaged) Install() error {
	_ = s.Close() // as what is installed need not be removed
	s.m.mu.Lock()
	if s.state.Applied.Index <= s.m.state.Applied.Index {
		defer s.m.mu.Unlock()
		return fmt.Errorf("image at %d, state at %d", s.state.Applied.Index, s.m.state.Applied.Index)
	}
	s.m.state = s.state
	s.m.mu.Unlock()
	return s.m.Flush()
}

// testImage pads itself to more chunks than a window has.
type testImage struct {
	applied kv.Applied
	data    []byte
}

func (i *testImage) Applied() kv.Applied { return i.applied }
func (i *testImage) Close() error        { return nil }

func (i *testImage) WriteTo(w io.Writer) (int64, error) {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(i.data)))
	out = append(append(out, i.data...), bytes.Repeat([]byte("pad"), 1<<20)...)
	n, err := w.Write(out)
	return int64(n), err
}
