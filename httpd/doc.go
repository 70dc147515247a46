// Package httpd is the HTTP edge: it turns requests into calls of the data
// plane and answers into responses, and knows nothing of shards or Raft. It is
// the only importer of gorilla/mux.
//
// # The way of a request
//
//	fastConn (plain requests for one key) or net/http (everything else)
//	  → Server.ServeHTTP (exchange from a pool)
//	  → mux (which route) → endpoint (method, budget, caller, deadline)
//	  → handler (query, headers, body within its limits)
//	  → guarded (may the caller do this) → Data; or Cluster, Admin
//	  → response, or one problem+json for every error
//
// A connection begins at a fastConn, which serves it until a request comes that it
// does not take, and then hands it to net/http for good. It parses no more than it can
// be sure of: net/http is its dumb twin, and a test holds their answers against each
// other.
//
// # Invariants
//
//  1. Limits come before parsing. A body that declares too much is refused
//     unread, one that turns out too large is cut off, and what is held of all
//     bodies together has a budget.
//  2. Every request has a deadline and a place in one of three budgets: data,
//     control, streams. A flood of one kind does not lock the others out.
//  3. Nothing that is misspelt is ignored: an unknown query parameter, JSON
//     field or duplicate of either is an error, and nothing was applied.
//  4. A key or value passes unchanged or not at all: paths are not cleaned,
//     JSON that is not exact UTF-8 is refused, bytes travel as base64.
//  5. Every error is RFC 9457 problem+json with code, outcome and retryable;
//     one table (problemTable) gives its status, and it is total.
//  6. Conditions of writes are guards that the shard evaluates, never a read
//     followed by a write.
//  7. With Options.Access, every route says what it needs, and one that says nothing
//     is closed. Keys are reached through guarded alone, which asks the policy about
//     the very arguments that it hands on: nothing that a body nests escapes it, and
//     no handler can forget to ask. What is denied was not begun, and its answer says
//     nothing of what is stored or where.
//
// What net/http itself refuses before there is a request (malformed request
// lines, bad percent-encoding, headers over the limit) is answered by it in
// plain text with 400, 431 or 505: nothing was applied.
package httpd
