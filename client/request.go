package client

import (
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// request is a call on its way to becoming HTTP. It is the same for all
// attempts, as the server compares repeated requests by their content.
type request struct {
	method string
	target string // path and query, encoded
	body   []byte
	read   bool // does not write: may be repeated at will

	contentType    string
	accept         string
	ifMatch        string
	ifNoneMatch    string
	idempotencyKey string

	// control requests are for the control plane, which knows no idempotency keys;
	// twice: to do it again changes nothing.
	control bool
	twice   bool

	// route: key names the shard whose leader is to be asked, if the client routes.
	route bool
	key   string

	// pinned requests are about the endpoint itself: they go to it and nowhere else.
	pinned *endpoint
}

// repeatable reports whether the request may be sent again after an attempt
// that may have been applied (invariant 1).
func (r *request) repeatable() bool { return r.read || r.twice || r.idempotencyKey != "" }

// response is an answer, read whole. Header fields that no caller looks at are
// not kept.
type response struct {
	status      int
	body        []byte
	contentType string
	version     kv.Version // Quorate-Version, else ETag
	expires     string
	shard       kv.ShardID
	servedBy    string
	consistency kv.Consistency
	deleted     int // Quorate-Deleted
	replayed    bool
	retryAfter  time.Duration
}

// ok reports whether the answer is a success. Redirects are not: no server of
// ours sends one unasked.
func (r *response) ok() bool {
	return r.status >= 200 && r.status < 300 || r.status == http.StatusNotModified
}

// newIdempotencyKey gives 128 random bits in hexadecimal. The generator is
// seeded by the operating system; the key has to be unique, not secret.
func newIdempotencyKey() string {
	const digits = "0123456789abcdef"
	var b [32]byte
	for i := 0; i < len(b); i += 16 {
		bits := rand.Uint64()
		for j := range 16 {
			b[i+j] = digits[bits&15]
			bits >>= 4
		}
	}
	return string(b[:])
}
