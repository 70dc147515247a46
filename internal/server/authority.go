package server

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/internal/access"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
)

// contactEvery is how often it is looked at whether this node follows the meta shard.
const contactEvery = time.Second

// authority knows which tokens count, from this node's own copy of the meta shard.
type authority struct {
	state func() *placement.State
	// contact tells how long ago this copy held everything that was acknowledged; false
	// if that is not known.
	contact func() (time.Duration, bool)
	steady  func() time.Time

	start time.Time
	fresh atomic.Int64 // nanoseconds since start up to which the copy is fresh enough
	last  atomic.Pointer[compiled]
	mu    sync.Mutex // held while compiling
}

// compiled is a set of tokens and the table that was made of it.
type compiled struct {
	set   *placement.TokenSet
	table *access.Table
}

func newAuthority(n *Node) *authority {
	return &authority{
		state: n.machine.State, steady: n.world.steady(), start: n.world.steady()(),
		contact: func() (time.Duration, bool) { return localShards{n.host, n.loads}.LastContact(kv.MetaShard) },
	}
}

// Table gives the tokens as this node knows them. It refuses if the node has not heard
// from the meta leader for kv.AccessStaleAfter: a token that counts here may have been
// revoked since.
func (a *authority) Table() (*access.Table, error) {
	if !a.isFresh() {
		return nil, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied,
			"this node has heard nothing from the leader of the meta shard for %s, so tokens may have been revoked; ask another node", kv.AccessStaleAfter)
	}
	set := a.state().Tokens()
	if c := a.last.Load(); c != nil && c.set == set {
		return c.table, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	set = a.state().Tokens()
	old := a.last.Load()
	switch {
	case old == nil:
		old = &compiled{}
	case old.set == set:
		return old.table, nil
	}
	c := &compiled{set: set, table: access.NewTable(set.All(), old.table)}
	a.last.Store(c)
	return c.table, nil
}

// isFresh looks at most once in contactEvery, and never beyond the moment at which
// what it saw becomes too old.
func (a *authority) isFresh() bool {
	now := a.steady().Sub(a.start)
	if int64(now) < a.fresh.Load() {
		return true
	}
	age, known := a.contact()
	left := kv.AccessStaleAfter - age
	if !known || left <= 0 {
		return false
	}
	a.fresh.Store(int64(now + min(left, contactEvery)))
	return true
}
