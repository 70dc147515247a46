package proc

import (
	"testing"
	"time"
)

func TestLongestStall(t *testing.T) {
	begin := time.Now()
	m := &Machine{since: begin.Add(time.Hour)}
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	for i, late := range []int{3, 9, 4, 4, 7, 1, 2} {
		m.noteLocked(wait{at(i), time.Duration(late) * time.Second})
	}
	for i, want := range []int{9, 7, 7, 7, 2, 2} {
		if got := m.LongestStall(at(i)); got != time.Duration(want)*time.Second {
			t.Errorf("after second %d: %s, want %d s", i, got, want)
		}
	}
	if got := m.LongestStall(at(6)); got > 0 {
		t.Errorf("after the last: %s", got)
	}
	for range 2 * waitsMax {
		m.noteLocked(wait{at(7), time.Duration(2*waitsMax-len(m.waits)) * time.Microsecond})
	}
	if len(m.waits) > waitsMax {
		t.Errorf("%d waits are kept", len(m.waits))
	}
}
