// Package client is the Go client of Quorate. It speaks the HTTP API, so
// everything it does can also be done with curl; what it adds is what is
// tedious to get right by hand:
//
//   - deadlines: every call has one, and the server is told what is left of it;
//   - retries over several endpoints, each write under one random idempotency
//     key, so that a write that is sent twice is applied once;
//   - errors that say what happened to the write (Error.Outcome), also when
//     only an earlier attempt may have been applied;
//   - iterators over ranges, and, if asked, requests sent straight to the node
//     that leads the key's shard.
//
// # Shape
//
// A call becomes a request (request.go). Client.do makes attempts of it
// (attempt.go): it picks an endpoint (endpoints.go, route.go), sends through a
// transport (nethttp.go, lean.go), and decides from the answer whether there is
// another attempt. A transport knows nothing of retries, the loop nothing of
// sockets.
//
// # Invariants
//
//  1. A write is sent more than once only under one idempotency key. A change of
//     the cluster has none; it is sent again only if doing it twice is doing it once.
//  2. Once an attempt may have been applied, the call's outcome is "unknown"
//     until the shard itself gives a definite answer under the same key; an
//     endpoint that merely refuses a later attempt proves nothing about an
//     earlier one.
//  3. No call outlives its deadline, whatever the endpoints do.
package client
