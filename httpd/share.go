package httpd

import (
	"time"

	"github.com/quorate-db/quorate/kv"
)

// share is what a request holds of its node and of what its client may take.
type share struct {
	client  *client // nil where the connection has no place: in servers of others
	bodies  int64   // bytes of bodies
	answers int64   // bytes of answers
	paced   bool    // what await let through last was counted
}

const (
	// answerBytesSmall is up to which size an answer is not counted.
	answerBytesSmall = 64 << 10
	// pageBytesLeast is the shortest that a page of a scan gets; each request may have
	// that, because there are only so many.
	pageBytesLeast = 32 << 10
	// pageShare is the part of what is free that one page may take: the more scans
	// run at once, the shorter their pages are.
	pageShare = 8
)

// enter gives a request its place among those of its kind, which leave gives back.
func (x *exchange) enter(b *budget) error {
	if !b.enter() {
		return refusal(kv.CodeOverloaded, "too many requests in flight at this node")
	}
	p, _ := x.r.Context().Value(placeKey{}).(*place)
	if p == nil {
		return nil
	}
	keys := b == &x.s.data
	if p.reserved {
		// Set before anything is written, so also in refusals.
		x.w.Header()["Connection"] = headerClose
		if keys {
			b.leave()
			no := refusal(kv.CodeOverloaded, "too many connections to this node; those beyond serve no keys")
			no.close = true
			return no
		}
	}
	if keys && !p.client.data.enter() {
		b.leave()
		return refusal(kv.CodeOverloaded, "too many requests in flight from this address")
	}
	x.share.client = p.client
	if keys && p.client.pace.rate > 0 {
		x.s.door.rivals.saw(p.client, time.Now())
	}
	return nil
}

func (x *exchange) leave(b *budget) {
	if c := x.share.client; c != nil && b == &x.s.data {
		c.data.leave()
	}
	b.leave()
}

// enterStream is enter for what lasts: streams and requests that wait for events.
func (x *exchange) enterStream() bool {
	if !x.s.streams.enter() {
		return false
	}
	if c := x.share.client; c != nil && !c.streams.enter() {
		x.s.streams.leave()
		return false
	}
	return true
}

func (x *exchange) leaveStream() {
	x.s.streams.leave()
	if c := x.share.client; c != nil {
		c.streams.leave()
	}
}

// takeBody counts bytes of a body until the request ends; false if there is no room.
func (x *exchange) takeBody(n int64) bool {
	if !x.s.bodies.take(n) {
		return false
	}
	if c := x.share.client; c != nil && !c.bodies.take(n) {
		x.s.bodies.give(n)
		return false
	}
	x.share.bodies += n
	return true
}

// takeAnswer counts bytes of an answer to a read until the request ends: who reads it
// slowly holds them. What was written is never refused for its answer.
func (x *exchange) takeAnswer(n int64) error {
	if n <= answerBytesSmall {
		return nil
	}
	return x.countAnswer(n)
}

func (x *exchange) countAnswer(n int64) error {
	if x.s.answers.take(n) {
		if c := x.share.client; c == nil || c.answers.take(n) {
			x.share.answers += n
			return nil
		}
		x.s.answers.give(n)
	}
	return refusal(kv.CodeOverloaded, "too many bytes of answers are held at this node")
}

// takePage gives how many bytes a page may have, at most want, and counts them.
func (x *exchange) takePage(want int64) int64 {
	free := x.s.answers.free()
	if c := x.share.client; c != nil {
		free = min(free, c.answers.free())
	}
	n := min(want, free/pageShare)
	if n < pageBytesLeast || x.countAnswer(n) != nil {
		return min(want, pageBytesLeast)
	}
	return n
}

// settlePage counts what a page has in place of what takePage gave it: less, most
// likely, or much more where its first item is large. held is what was held before.
func (x *exchange) settlePage(held, used int64) error {
	if more := held + used - x.share.answers; more > 0 {
		return x.takeAnswer(more)
	} else if more < 0 {
		x.giveAnswer(-more)
	}
	return nil
}

func (x *exchange) giveAnswer(n int64) {
	x.s.answers.give(n)
	if c := x.share.client; c != nil {
		c.answers.give(n)
	}
	x.share.answers -= n
}

// endShare gives back what the request holds.
func (x *exchange) endShare() {
	if n := x.share.bodies; n > 0 {
		x.s.bodies.give(n)
		if c := x.share.client; c != nil {
			c.bodies.give(n)
		}
	}
	if n := x.share.answers; n > 0 {
		x.giveAnswer(n)
	}
}

// bytesOf gives about how many bytes a page has as JSON.
func bytesOf(p *kv.Page) int64 {
	n := int64(0)
	for _, it := range p.Items {
		n += int64(len(it.Key) + len(it.Value) + 64)
	}
	for _, prefix := range p.CommonPrefixes {
		n += int64(len(prefix) + 64)
	}
	return n
}
