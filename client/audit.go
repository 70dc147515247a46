package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// AuditEntry is a request that was denied, or that administered. There are no keys,
// values or tokens in it.
type AuditEntry struct {
	Node      string    `json:"node"` // that was asked, and keeps the entry
	NodeName  string    `json:"node_name"`
	Seq       uint64    `json:"seq"` // in that node's log
	Time      time.Time `json:"time"`
	Unlogged  uint64    `json:"unlogged,omitempty"` // denied requests before it that were too many to be logged
	Token     string    `json:"token,omitempty"`    // the id; "" = nobody known
	TokenName string    `json:"token_name,omitempty"`
	Method    string    `json:"method"`
	Route     string    `json:"route"`
	Target    string    `json:"target,omitempty"` // the id in the path, or of the token that was made
	From      string    `json:"from"`
	Status    int       `json:"status"`
	Code      string    `json:"code,omitempty"` // of the problem; "" = a success
	Outcome   string    `json:"outcome,omitempty"`
	Hash      string    `json:"hash"` // of the line in that node's log
}

// AuditGap is a node whose entries are not all in a page.
type AuditGap struct {
	Node string `json:"node"`
	Name string `json:"name"`
	Why  string `json:"why"`
}

// AuditPage holds entries, the newest first.
type AuditPage struct {
	Entries []AuditEntry `json:"entries"`
	Missing []AuditGap   `json:"missing"`
	Next    time.Time    `json:"next,omitzero"` // to be given as Before; zero: there are no older ones
}

// AuditQuery asks for the newest entries in [Since, Before).
type AuditQuery struct {
	Limit  int       // at most so many; 0 = as many as the server likes
	Since  time.Time // zero: no bound
	Before time.Time // zero: no bound
	Node   string    // the log of this node alone, named by id or name; "" = of all
}

// Audit reads the audit logs of the nodes. It takes a token that may administer. A node
// that does not answer is in Missing.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	v := url.Values{}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Before.IsZero() {
		v.Set("before", q.Before.UTC().Format(time.RFC3339Nano))
	}
	if q.Node != "" {
		v.Set("node", q.Node)
	}
	target := "/v1/audit"
	if len(v) > 0 {
		target += "?" + v.Encode()
	}
	var page AuditPage
	err := c.getJSON(ctx, target, &page)
	return page, err
}
