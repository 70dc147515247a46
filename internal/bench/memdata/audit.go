package memdata

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// Audit is audit logs in memory. Entries are the newest first.
type Audit struct {
	Entries []kv.AuditEntry
	Missing []kv.AuditGap
}

// NewAudit gives n entries of a node, one a second, the first of which is a denied request.
func NewAudit(node kv.NodeID, name string, n int) *Audit {
	a := &Audit{}
	for i := range n {
		e := kv.AuditEntry{Node: node, NodeName: name, Seq: uint64(i + 1), Time: time.UnixMilli(adminEpochMs).Add(time.Duration(i) * time.Second),
			Token: "0123456789abcdef", TokenName: "ops", Method: "POST", Route: "/v1/shards/{id}/split", Target: "2", From: "192.0.2.1:4711", Status: 202,
			Hash: strings.Repeat("ab", 32)}
		if i == 0 {
			e.Token, e.TokenName, e.Target = "", "", ""
			e.Method, e.Route, e.Status, e.Code, e.Outcome, e.Unlogged = "PUT", "/v1/kv/{key}", 401, string(kv.CodeUnauthenticated), string(kv.OutcomeNotApplied), 7
		}
		a.Entries = append(a.Entries, e)
	}
	slices.Reverse(a.Entries)
	return a
}

// Audit gives the newest.
func (a *Audit) Audit(_ context.Context, q kv.AuditQuery) (kv.AuditPage, error) {
	page := kv.AuditPage{Missing: a.Missing}
	for _, e := range a.Entries {
		switch {
		case q.Node != 0 && q.Node != e.Node, e.Time.Before(q.Since), !q.Before.IsZero() && !e.Time.Before(q.Before):
		case len(page.Entries) == q.Limit:
			page.More = true
			return page, nil
		default:
			page.Entries = append(page.Entries, e)
		}
	}
	return page, nil
}
