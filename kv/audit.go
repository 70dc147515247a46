package kv

import "time"

// AuditQuery asks for the newest entries of audit logs in [Since, Before); a zero time
// is no bound.
type AuditQuery struct {
	Node   NodeID // that keeps them; 0 = all nodes
	Limit  int    // at most so many, 1 to AuditMax
	Since  time.Time
	Before time.Time
}

// AuditEntry is a request that was denied, or that administered. There are no keys,
// values or tokens in it.
type AuditEntry struct {
	Node      NodeID // that was asked, and keeps the entry
	NodeName  string
	Seq       uint64 // in that node's log; grows by one with each
	Time      time.Time
	Unlogged  uint64 // denied requests before this one that were too many to be logged
	Token     string // the id; "" = nobody known
	TokenName string
	Method    string
	Route     string // the pattern
	Target    string // the id in the path, or of the token that was made
	From      string // the address of the other end of the connection
	Status    int
	Code      string // of the problem, "" for a success
	Outcome   string
	Hash      string // of the line in that node's log
}

// AuditGap says that entries of a node are missing from a page, and why.
type AuditGap struct {
	Node NodeID
	Name string
	Why  string
}

// AuditPage holds entries of one or all nodes, the newest first.
type AuditPage struct {
	Entries []AuditEntry
	Missing []AuditGap
	More    bool // the query asks for older ones too: again, with Before the last one's time
}
