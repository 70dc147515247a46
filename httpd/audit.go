package httpd

import (
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

type auditEntryJSON struct {
	Node      string `json:"node"`
	NodeName  string `json:"node_name"`
	Seq       uint64 `json:"seq"`
	Time      string `json:"time"`
	Unlogged  uint64 `json:"unlogged,omitempty"`
	Token     string `json:"token,omitempty"`
	TokenName string `json:"token_name,omitempty"`
	Method    string `json:"method"`
	Route     string `json:"route"`
	Target    string `json:"target,omitempty"`
	From      string `json:"from"`
	Status    int    `json:"status"`
	Code      string `json:"code,omitempty"`
	Outcome   string `json:"outcome,omitempty"`
	Hash      string `json:"hash"`
}

type auditGapJSON struct {
	Node string `json:"node"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

type auditPageJSON struct {
	Entries []auditEntryJSON `json:"entries"`
	Missing []auditGapJSON   `json:"missing"`
	Next    string           `json:"next,omitempty"` // to be given as before
}

func asAuditPageJSON(p *kv.AuditPage) auditPageJSON {
	out := auditPageJSON{Entries: make([]auditEntryJSON, len(p.Entries)), Missing: make([]auditGapJSON, len(p.Missing))}
	for i := range p.Entries {
		e := &p.Entries[i]
		out.Entries[i] = auditEntryJSON{
			Node: nodeText(e.Node), NodeName: e.NodeName, Seq: e.Seq, Time: e.Time.UTC().Format(time.RFC3339Nano), Unlogged: e.Unlogged,
			Token: e.Token, TokenName: e.TokenName, Method: e.Method, Route: e.Route, Target: e.Target, From: e.From,
			Status: e.Status, Code: e.Code, Outcome: e.Outcome, Hash: e.Hash,
		}
		if p.More {
			out.Next = out.Entries[i].Time
		}
	}
	for i, g := range p.Missing {
		out.Missing[i] = auditGapJSON{nodeText(g.Node), g.Name, g.Why}
	}
	return out
}

// getAudit serves GET /v1/audit: the newest entries of all nodes' audit logs, or of one's.
// A node that asks nobody for a token shows nobody what the others have written down.
func (s *Server) getAudit(x *exchange) error {
	q, node, err := x.auditQuery()
	if err != nil {
		return err
	}
	if err := x.plain(); err != nil {
		return err
	}
	if s.opts.Audit == nil {
		return x.refused(kv.CodeNotFound, "there is no audit log: this node was started without --auth")
	}
	if node != "" {
		n, err := x.node(node)
		if err != nil {
			return err
		}
		q.Node = n.ID
	}
	page, err := s.opts.Audit.Audit(x.ctx, q)
	if err != nil {
		return err
	}
	return x.reply(asAuditPageJSON(&page))
}

// auditQuery takes the parameters; node is what was given for it.
func (x *exchange) auditQuery() (q kv.AuditQuery, node string, err error) {
	q.Limit = kv.AuditDefault
	if v, ok := x.query.take("limit"); ok {
		if q.Limit, err = strconv.Atoi(v); err != nil || q.Limit < 1 || q.Limit > kv.AuditMax {
			return q, "", invalid("query: limit: want a number from 1 to " + strconv.Itoa(kv.AuditMax))
		}
	}
	if q.Since, err = x.queryTime("since"); err != nil {
		return q, "", err
	}
	if q.Before, err = x.queryTime("before"); err != nil {
		return q, "", err
	}
	node, given := x.query.take("node")
	if given && node == "" {
		return q, "", invalid("query: node: want a node's id or name")
	}
	return q, node, nil
}

// queryTime takes a parameter that is a time; zero if it is not given.
func (x *exchange) queryTime(name string) (time.Time, error) {
	v, ok := x.query.take(name)
	if !ok {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return time.Time{}, invalid("query: " + name + ": want a time like 2026-11-29T15:04:05Z")
	}
	return t, nil
}
