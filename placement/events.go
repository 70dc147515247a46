package placement

import (
	"fmt"
	"sync"
	"time"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement/metapb"
)

const (
	eventsApart   = time.Second // events are written at most as often
	eventsPending = 1024        // more than that are dropped, the newest first
)

// eventLog gathers what the meta leader sees happen, until it is written to the
// meta shard.
type eventLog struct {
	names func(kv.NodeID) string
	now   func() time.Time

	mu      sync.Mutex
	pending []*metapb.Event
	last    time.Time
}

func (e *eventLog) add(at time.Time, kind string, node kv.NodeID, shard kv.ShardID, detail string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending) < eventsPending {
		e.pending = append(e.pending, &metapb.Event{
			TimeMs: at.UnixMilli(), Kind: kind, Node: uint64(node), Shard: uint64(shard), Detail: shorten(detail),
		})
	}
}

// liveness is the tracker's hook.
func (e *eventLog) liveness(node kv.NodeID, was, now Liveness) {
	switch {
	case was == Alive && now == Dead:
		e.add(e.now(), EventNodeDead, node, 0, "node "+e.names(node)+" does not report any more")
	case was == Dead && now == Alive:
		e.add(e.now(), EventNodeBack, node, 0, "node "+e.names(node)+" reports again")
	}
}

// lead is the tracker's hook.
func (e *eventLog) lead(shard kv.ShardID, node kv.NodeID, term uint64) {
	e.add(e.now(), EventLeader, node, shard, fmt.Sprintf("node %s leads shard %s in term %d", e.names(node), shard, term))
}

// step gives the step that writes what is pending, if it is time.
func (e *eventLog) step(now time.Time) (Step, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending) == 0 || now.Sub(e.last) < eventsApart {
		return Step{}, false
	}
	e.last = now
	n := min(len(e.pending), eventsPerCommand)
	events := e.pending[:n:n]
	e.pending = e.pending[n:]
	return Step{Kind: StepEvents, Text: fmt.Sprintf("write %d events", n),
		Command: &metapb.Command{Body: &metapb.Command_AppendEvents{AppendEvents: &metapb.AppendEvents{Events: events}}}}, true
}

// sent takes back what could not be written.
func (e *eventLog) sent(events []*metapb.Event, err error) {
	if err == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending = append(events, e.pending...)
	e.pending = e.pending[:min(len(e.pending), eventsPending)]
}
