package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate-db/quorate/internal/audit"
	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/placement"
	"github.com/quorate-db/quorate/raftnode/peer"
)

const (
	// auditWait bounds how long nodes are waited for, and how long one reads its log.
	auditWait = 3 * time.Second
	// auditAsksMax bounds the nodes that are asked at once, each of which may answer with
	// a page, and auditReadsMax the pages that are read for others at once.
	auditAsksMax  = 8
	auditReadsMax = 4
)

// trail brings the audit logs of all nodes together: each keeps its own, and shows it
// to the others of its cluster. Peers may ask from newTrail on, and are refused until
// begin.
type trail struct {
	self   kv.NodeID
	mesh   peer.Mesh
	nodes  func() []kv.NodeInfo      // with id and name
	log    atomic.Pointer[audit.Log] // nil: there is none, or not yet
	reads  chan struct{}             // a slot for each page that is read for another node
	life   context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // Go only under mu while not closed
}

func newTrail() *trail {
	t := &trail{reads: make(chan struct{}, auditReadsMax)}
	t.life, t.cancel = context.WithCancel(context.Background())
	return t
}

// begin tells of the node and its log.
func (t *trail) begin(n *Node, log *audit.Log) {
	t.self, t.mesh, t.nodes = n.identity.Node(), n.mesh, func() []kv.NodeInfo { return members(n.machine.State()) }
	t.log.Store(log)
}

// members gives ids and names as this node knows them: whether the meta leader answers is
// no matter here.
func members(s *placement.State) (out []kv.NodeInfo) {
	for _, m := range s.Members() {
		out = append(out, kv.NodeInfo{ID: kv.NodeID(m.Id), Name: m.Name})
	}
	return out
}

// close ends what is read for others.
func (t *trail) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
}

// onAsked serves another node. It runs on the mesh's goroutine.
func (t *trail) onAsked(_ kv.NodeID, req []byte, reply func([]byte, error)) {
	var q audit.Query
	if err := json.Unmarshal(req, &q); err != nil || q.Limit < 1 || q.Limit > kv.AuditMax {
		reply(nil, kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "not a query of an audit log"))
		return
	}
	select {
	case t.reads <- struct{}{}:
	default:
		reply(nil, kv.Errorf(kv.CodeOverloaded, kv.OutcomeNotApplied, "too many read the audit log at once"))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		<-t.reads
		reply(nil, kv.Errorf(kv.CodeDraining, kv.OutcomeNotApplied, "the node is shutting down"))
		return
	}
	t.wg.Go(func() {
		defer func() { <-t.reads }()
		ctx, cancel := context.WithTimeout(t.life, auditWait)
		defer cancel()
		page, err := t.own(ctx, q)
		if err != nil {
			reply(nil, err)
			return
		}
		reply(json.Marshal(page))
	})
}

// own reads the log of this node.
func (t *trail) own(ctx context.Context, q audit.Query) (audit.Page, error) {
	log := t.log.Load()
	if log == nil {
		return audit.Page{}, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNotApplied, "it keeps no audit log: it was started without --auth, or is just starting")
	}
	return log.Newest(ctx, q)
}

// ask reads the log of a node.
func (t *trail) ask(ctx context.Context, node kv.NodeID, q audit.Query) (audit.Page, error) {
	if node == t.self {
		return t.own(ctx, q)
	}
	req, err := json.Marshal(q)
	if err != nil {
		return audit.Page{}, err
	}
	answer, err := peer.Call(ctx, t.mesh, node, peer.MethodAudit, req)
	if err != nil {
		return audit.Page{}, err
	}
	var page audit.Page
	if err := json.Unmarshal(answer, &page); err != nil {
		return audit.Page{}, fmt.Errorf("its answer cannot be read: %w", err)
	}
	return page, nil
}

// Audit implements httpd.Audit.
func (t *trail) Audit(ctx context.Context, q kv.AuditQuery) (kv.AuditPage, error) {
	wait := auditWait
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end)*3/4) // there has to be time to answer
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	nodes := t.nodes()
	if q.Node != 0 {
		nodes = slices.DeleteFunc(nodes, func(n kv.NodeInfo) bool { return n.ID != q.Node })
	}
	sum := newAuditSum(q.Limit)
	var asks sync.WaitGroup
	slots := make(chan struct{}, auditAsksMax)
	for i := range nodes {
		slots <- struct{}{}
		asks.Go(func() {
			defer func() { <-slots }()
			page, err := t.ask(ctx, nodes[i].ID, audit.Query{Limit: q.Limit, Since: q.Since, Before: q.Before})
			sum.add(&nodes[i], &page, err)
		})
	}
	asks.Wait()
	page := sum.page
	if q.Node != 0 && sum.answers == 0 {
		why := "it is not known here"
		if len(page.Missing) > 0 {
			why = page.Missing[0].Why
		}
		return kv.AuditPage{}, kv.Errorf(kv.CodeUnavailable, kv.OutcomeNone, "the audit log of node %s: %s", q.Node, why)
	}
	slices.SortFunc(page.Missing, func(a, b kv.AuditGap) int { return cmp.Compare(a.Name, b.Name) })
	return page, nil
}

// auditSum puts the pages of nodes together as they come, and holds no more than one.
type auditSum struct {
	limit   int
	mu      sync.Mutex
	page    kv.AuditPage
	floor   time.Time // a node's page ends here: what is older may lack some of its entries
	answers int
}

func newAuditSum(limit int) *auditSum { return &auditSum{limit: limit} }

func (s *auditSum) add(n *kv.NodeInfo, p *audit.Page, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gap := func(why string) {
		s.page.Missing = append(s.page.Missing, kv.AuditGap{Node: n.ID, Name: n.Name, Why: why})
	}
	if err != nil {
		gap(whyMissing(err))
		return
	}
	s.answers++
	if p.Damaged > 0 {
		gap(fmt.Sprintf("%d lines are damaged; 'quorate audit verify' says more, given the files", p.Damaged))
	}
	for i := range p.Entries {
		s.page.Entries = append(s.page.Entries, auditEntry(n, &p.Entries[i]))
	}
	if last := len(p.Entries) - 1; p.More && last >= 0 {
		s.page.More = true
		if end := p.Entries[last].Time; end.After(s.floor) {
			s.floor = end
		}
	}
	s.cut()
}

// cut sorts the entries, and leaves out those that are too old or too many.
func (s *auditSum) cut() {
	all := s.page.Entries
	slices.SortFunc(all, func(a, b kv.AuditEntry) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.NodeName, b.NodeName), cmp.Compare(b.Seq, a.Seq))
	})
	keep := min(len(all), s.limit)
	for keep > 0 && all[keep-1].Time.Before(s.floor) {
		keep--
	}
	s.page.More = s.page.More || keep < len(all)
	s.page.Entries = slices.Clone(all[:keep]) // without what is left out
}

// whyMissing says in words why a node's log was not read.
func whyMissing(err error) string {
	if e := kv.AsError(err); e.Detail != "" {
		return e.Detail
	}
	return err.Error()
}

func auditEntry(n *kv.NodeInfo, e *audit.Logged) kv.AuditEntry {
	return kv.AuditEntry{
		Node: n.ID, NodeName: n.Name, Seq: e.Seq, Time: e.Time, Unlogged: e.Unlogged, Token: e.Token, TokenName: e.Name,
		Method: e.Method, Route: e.Route, Target: e.Target, From: e.From, Status: e.Status, Code: e.Code, Outcome: e.Outcome, Hash: e.Hash,
	}
}
