// Package simnet is a network in memory for tests: endpoints that satisfy
// peer.Mesh, joined by directed links whose faults can be changed while it runs.
// It uses channels and package time only, so that it works on the virtual clock
// of a testing/synctest bubble.
//
// A request travels the link from its sender to its receiver and the answer
// travels the opposite link, each with its own faults: an answer can be lost
// where the request was not. Seeds choose the faults, but goroutines interleave
// freely, so a seed does not replay a run bit by bit.
//
// # Invariants
//
//  1. Every Send's done is called exactly once, at the latest at its deadline or
//     when its node closes.
//  2. While the minimum and the maximum delay of a link are equal and do not
//     change, messages of one class over it are delivered in the order sent, a
//     duplicate directly behind its original.
//  3. Nothing that was in flight from or to a node when it went down is
//     delivered afterwards.
//  4. After Node.Close has returned, none of the node's handlers or callbacks
//     runs and none of its goroutines or timers is left.
package simnet
